"""Methods of drift, of personal models, of fairness and of robust means, against their papers' equations in numpy."""

import dataclasses

import numpy as np
import pytest
from torch import nn

from edgekit.algorithms.base import Algorithm
from edgekit.asks import WEIGHTS, Aggregate, State, Update
from edgekit.errors import EdgekitError, ExperimentError
from edgekit.local_settings import LocalSettings
from edgekit.registry import ALGORITHMS

from .reference import accuracy, descend, mean, same


def _less(one, other):
    return {name: one[name] - other[name] for name in one}


def _plus(one, other, factor=1.0):
    return {name: one[name] + factor * other[name] for name in one}


def _zeros(w):
    return {name: np.zeros(v.shape) for name, v in w.items()}


def _loss(examples, w):
    scores = examples.x.reshape(len(examples), -1) @ w["1.weight"].T + w["1.bias"]
    scores = scores - scores.max(1, keepdims=True)
    return float(np.mean(np.log(np.exp(scores).sum(1)) - scores[range(len(scores)), examples.y]))


def test_feddyn(run):
    """Acar et al. 2021, algorithm 1, where three of six clients take part."""
    alpha = 0.3
    made, w, found, _ = run("federation.algorithm=feddyn", f"federation.arguments.alpha={alpha}", "federation.cohort=3")
    own, h = {client: _zeros(w) for client in range(6)}, _zeros(w)
    for number in (1, 2, 3):
        cohort, after = made.cohorts.draw(made.engine, number, 0), []
        for c in cohort:
            drift = {name: -g for name, g in own[c].items()}
            after.append(descend(made, number, c, w, mu=alpha, drift=drift)[0])
            own[c] = _plus(own[c], _less(after[-1], w), -alpha)
        moved = mean([_less(one, w) for one in after], [1] * 3)
        h = _plus(h, moved, -alpha * 3 / 6)
        w = _plus(mean(after, [1] * 3), h, -1 / alpha)
    same(found, w)


def test_perfedavg(measured):
    """Fallah et al. 2020, algorithm 1 with first-order gradients: two batches a step; clients measure one step on."""
    made, found, lines = measured("federation.algorithm=perfedavg", "federation.arguments={steps = 3, own_rate = 0.1}")
    w = _first(made)
    sizes, training = [len(made.dataset.client(c)) for c in range(6)], made.local_settings
    alpha = dataclasses.replace(training, most_steps=1, momentum=0.0, learning_rate=0.1)
    beta = dataclasses.replace(training, most_steps=1, momentum=0.0)
    for number in (1, 2, 3):
        after, own = [], {}
        for c in range(6):
            v = w
            for step in range(3):
                more = (2 * step,) if step else ()
                there = descend(made, number, c, v, more=more, training=alpha)[0]
                own.setdefault(c, there)
                on = descend(made, number, c, there, more=(2 * step + 1,), training=beta)[0]
                v = _plus(v, _less(on, there))
            after.append(v)
        w = mean(after, sizes)
    same(found, w)
    scores = [accuracy(made.dataset.client_test(c), own[c]) for c in range(6)]
    assert lines[-1]["clients"]["mean"] == pytest.approx(np.mean(scores), abs=1e-5)


def test_ditto(measured):
    """Li et al. 2021, algorithm 1; clients are measured by their own models, which are not sent."""
    made, found, _ = measured("federation.algorithm=ditto", "federation.arguments.pull=0.5")
    w = _first(made)
    clients = range(6)
    sizes, own = [len(made.dataset.client(c)) for c in clients], dict.fromkeys(clients, w)
    for number in (1, 2, 3):
        own = {c: descend(made, number, c, own[c], mu=0.5, anchor=w)[0] for c in clients}
        w = mean([descend(made, number, c, w, more=(1,))[0] for c in clients], sizes)
    same(found, w)
    for c in clients:
        assert made.scores[c].score == pytest.approx(accuracy(made.dataset.client_test(c), own[c]))
    assert any(
        accuracy(made.dataset.client_test(c), own[c]) != accuracy(made.dataset.client_test(c), w) for c in clients
    )


def _first(made):
    return {name: array.astype(np.float64) for name, array in made._first.state.bundles[WEIGHTS].items()}


def test_qfedavg(run):
    """Li et al. 2020, algorithm 2, with L = 1 / lr."""
    made, w, found, _ = run("federation.algorithm=qfedavg", "federation.arguments.q=1.5")
    rate, q = 0.2, 1.5
    for number in (1, 2, 3):
        steps, hs = [], []
        for c in range(6):
            loss = _loss(made.dataset.client(c), w)
            moved = {k: v / rate for k, v in _less(w, descend(made, number, c, w, more=(1,))[0]).items()}
            steps.append({k: loss**q * v for k, v in moved.items()})
            hs.append(q * loss ** (q - 1) * sum((v**2).sum() for v in moved.values()) + loss**q / rate)
        w = {k: w[k] - sum(one[k] for one in steps) / sum(hs) for k in w}
    same(found, w)


def test_ifca(measured):
    """Ghosh et al. 2020, algorithm 1 with models averaged; clients are measured by their cluster's."""
    made, found, lines = measured("federation.algorithm=ifca", "federation.arguments.clusters=3")
    state = made.algorithm.begin(made._first.state.bundles[WEIGHTS], frozenset())
    models = [{k: v.astype(np.float64) for k, v in one.items()} for one in state.bundles.values()]
    sizes = {c: len(made.dataset.client(c)) for c in range(6)}
    assert not np.array_equal(models[0]["1.weight"], models[1]["1.weight"])
    for number in (1, 2, 3):
        joined = {c: int(np.argmin([_loss(made.dataset.client(c), m) for m in models])) for c in range(6)}
        after = {c: descend(made, number, c, models[joined[c]], more=(3,))[0] for c in range(6)}
        total = [sum(sizes[c] for c in joined if joined[c] == place) for place in range(3)]
        for place in range(3):
            if own := [c for c in joined if joined[c] == place]:
                models[place] = mean([after[c] for c in own], [sizes[c] for c in own])
    same(found, models[int(np.argmax(total))])
    assert [lines[-1]["metrics"][f"cluster-{place}"] for place in range(3)] == total
    for c in range(6):
        assert made.scores[c].score == pytest.approx(accuracy(made.dataset.client_test(c), models[joined[c]]))


def test_fedbn_keeps_norms_and_no_more(tmp_path, make_experiment):
    from edgekit.data import load
    from edgekit.models import build
    from edgekit.runfolder import RunFolder
    from edgekit.server.loop.sync import Coordinator

    experiment = make_experiment("federation.algorithm=fedbn", "model.norm=group", "model.name=dscnn")
    dataset = load(experiment.data, 0)
    model = build(experiment.model, dataset.shape, 10, 0, dataset.calibration.x)
    made = Coordinator(experiment, dataset, model, RunFolder.create(tmp_path / "run"))
    made.run()
    norms = {
        f"{name}.{part}"
        for name, layer in model.named_modules()
        if isinstance(layer, nn.GroupNorm)
        for part in ("weight", "bias")
    }
    kept = made.engine._here.clients.states.load(0, 3)["own"]
    assert set(kept) == norms
    ask = made.algorithm.ask(made._first.state, [0], 1)[0]
    there = ALGORITHMS.load("fedbn")()  # a device that has never seen the network
    assert set(there.expects(ask)[WEIGHTS]) == set(ask.bundles[WEIGHTS]) - norms
    experiment = make_experiment("federation.algorithm=fedbn", "model.norm=none", "model.name=dscnn")
    bare = build(experiment.model, dataset.shape, 10, 0)
    with pytest.raises(EdgekitError, match=r"the network has none: set model.norm = 'group'"):
        Coordinator(experiment, dataset, bare, RunFolder(tmp_path / "none"))


RNG = np.random.default_rng(0)
BEFORE = {"a": RNG.normal(size=(4, 3)), "b": RNG.normal(size=5)}
CHANGES = RNG.normal(size=(7, 17)) * RNG.lognormal(size=(7, 1))
SHARES = np.array([10, 20, 30, 5, 5, 20, 10]) / 100


def _flat(w):
    return np.concatenate([w["a"].ravel(), w["b"]])


def _got(changes=CHANGES, shares=SHARES):
    updates = {}
    for client, change in enumerate(changes):
        arrays = {"a": BEFORE["a"] + change[:12].reshape(4, 3), "b": BEFORE["b"] + change[12:]}
        updates[client] = Update({WEIGHTS: arrays}, 100 * shares[client])
    return Aggregate({}, {}, len(updates), 10, updates)


def _merged(name, state=None, got=None, **arguments):
    """What a robust mean moves the model by, and its state."""
    kind = ALGORITHMS.load(name)
    method: Algorithm = kind(kind.Settings(**arguments))
    state = method.begin(BEFORE, frozenset()) if state is None else state
    after = method.merge(state, got or _got(), 1)
    return _flat(method.model(after)) - _flat(state.bundles[WEIGHTS]), after


@pytest.mark.parametrize("iterations", [1, 4, 500])
def test_rfa_is_the_geometric_median(iterations):
    """Pillutla et al. 2022, algorithm 2; in the end no point near has a smaller sum of distances."""
    found, _ = _merged("rfa", iterations=iterations)
    point = SHARES @ CHANGES
    for _ in range(iterations):
        betas = SHARES / np.maximum(1e-6, np.linalg.norm(CHANGES - point, axis=1))
        point = betas @ CHANGES / betas.sum()
    np.testing.assert_allclose(found, point, atol=1e-9)
    if iterations == 500:
        from scipy.optimize import minimize

        def cost(at):
            return SHARES @ np.linalg.norm(CHANGES - at, axis=1)

        best = minimize(cost, SHARES @ CHANGES, method="BFGS")
        assert cost(found) <= best.fun + 1e-9


@pytest.mark.parametrize(("radius", "iterations"), [(1.0, 1), (2.5, 3), (0.0, 2)])
def test_centred_clipping(radius, iterations):
    """Karimireddy et al. 2021, algorithm 2, over two rounds: the second begins where the first ended."""
    _, state = _merged("centred-clipping", radius=radius, iterations=iterations)
    held = State({**state.bundles, WEIGHTS: BEFORE})
    found, _ = _merged("centred-clipping", held, _got(CHANGES[::-1]), radius=radius, iterations=iterations)
    v = np.zeros(17)
    for changes in (CHANGES, CHANGES[::-1]):
        for _ in range(iterations):
            far = np.linalg.norm(changes - v, axis=1)
            tau = radius or np.median(far)
            v = v + np.mean((changes - v) * np.minimum(1, tau / far)[:, None], axis=0)
    np.testing.assert_allclose(found, v, atol=1e-9)


@pytest.mark.parametrize("bound", [0.0, 1.5])
def test_norm_bounding(bound):
    found, _ = _merged("norm-bounding", bound=bound)
    norms = np.linalg.norm(CHANGES, axis=1)
    wanted = SHARES @ (CHANGES * np.minimum(1, (bound or np.median(norms)) / norms)[:, None])
    np.testing.assert_allclose(found, wanted, atol=1e-9)


def test_fltrust():
    """Cao et al. 2021, equations 2 to 4, with what the server trains given here."""
    method = ALGORITHMS.load("fltrust")(ALGORITHMS.load("fltrust").Settings(rate=0.5))
    root = np.random.default_rng(1).normal(size=17)
    settings = LocalSettings(learning_rate=0.3)
    got = Aggregate(**{**vars(_got()), "settings": settings})
    merge = method.merge(State({WEIGHTS: BEFORE}), got, 1)
    asked = next(merge)
    assert asked.settings == settings
    trained = Update({WEIGHTS: {"a": BEFORE["a"] + root[:12].reshape(4, 3), "b": BEFORE["b"] + root[12:]}})
    with pytest.raises(StopIteration) as ended:
        merge.send(type("Trained", (), {"arrays": trained.bundles[WEIGHTS]}))
    norms, length = np.linalg.norm(CHANGES, axis=1), np.linalg.norm(root)
    trust = np.maximum(0, CHANGES @ root / (norms * length))
    assert 0 < (trust > 0).sum() < 7
    wanted = 0.5 * trust @ (CHANGES * (length / norms)[:, None]) / trust.sum()
    after = ended.value.value
    np.testing.assert_allclose(_flat(after.bundles[WEIGHTS]) - _flat(BEFORE), wanted, atol=1e-9)
    assert after.facts["metrics"]["trusted"] == (trust > 0).sum()


@pytest.mark.parametrize("method", ["rfa", "centred-clipping", "norm-bounding", "fltrust"])
def test_robust_means_bear_clients_that_do_not_move(method, run):
    """Nothing is divided by a length of zero."""
    _, w, found, _ = run(f"federation.algorithm={method}", "federation.rounds=1", "training.learning_rate=1e-30")
    same(found, w)


@pytest.mark.parametrize("method", ["rfa", "fltrust", "ifca"])
def test_methods_that_read_single_updates_are_refused_where_only_their_mean_is_seen(method, run):
    with pytest.raises(ExperimentError, match="looks at single clients' updates|needs the clients' losses"):
        run(f"federation.algorithm={method}", "privacy.unit=client")


@pytest.mark.parametrize(
    ("method", "problem"),
    [
        ("ditto", "ditto has clients train 2 times a round, privacy is planned for one"),
        ("qfedavg", "qfedavg needs the clients' losses"),
    ],
)
def test_methods_that_do_more_than_privacy_counts_are_refused(method, problem, run):
    with pytest.raises(ExperimentError, match=problem):
        run(f"federation.algorithm={method}", "privacy.unit=client", "privacy.noise=client")


def test_qfedavg_stays_where_no_step_is_safe():
    """Of honest clients h is above zero; of others nothing is divided by it."""
    kind = ALGORITHMS.load("qfedavg")
    state = State({WEIGHTS: BEFORE})
    for h in (0.0, -1.0, np.nan):
        got = Aggregate({"step": BEFORE, "curvature": {"h": np.array([h], np.float32)}}, {}, 3, 10)
        assert kind().merge(state, got, 1) is state
