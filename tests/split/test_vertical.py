"""Several parties hold different features of the same people: aligned by id, trained as if all lay together."""

import json
import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_breast_cancer

from edgekit.algorithms.interactive import run, steps
from edgekit.algorithms.parties.party import rng_of, task_of
from edgekit.algorithms.parties.simulated import PartiesTogether, align
from edgekit.algorithms.split.device import Device, half
from edgekit.algorithms.split.messages import Backward, Forward
from edgekit.algorithms.split.service import SplitService, listen
from edgekit.algorithms.split.stream import StreamLine
from edgekit.asks import Ask, Client, Trained
from edgekit.clients import LocalSettings
from edgekit.clients.torch_trainer import state
from edgekit.data import batches
from edgekit.data.vertical import read_table, scale_of, scaled
from edgekit.errors import DataError, ExperimentError, LinkDownError, RefusedError, TrainingError
from edgekit.experiment import load
from edgekit.pipeline import job
from edgekit.pipeline.subjects import build_network, load_dataset
from edgekit.privacy.intersection import Side

QUICK = (
    "model.name=mlp", "model.arguments={}", "split.labels=server", "privacy.unit=none", "spiking.enabled=false",
    "export.presets=[]", "split.parties=2",
)  # fmt: skip
WORK = LocalSettings(batch_size=16, epochs=2, learning_rate=0.1, momentum=0.9, proximal_mu=0.1)


def _made(*overrides):
    experiment = load(None, (*QUICK, *overrides))
    dataset = load_dataset(experiment)
    model = build_network(experiment, dataset, dataset.calibration.x)
    return experiment, dataset, model, PartiesTogether(experiment.split, model, dataset, 0, lambda line: None)


def _trained(trainer, weights, settings, number):
    ask = Ask({"weights": weights}, {"proximal-mu": settings.proximal_mu}, settings, number)
    asks = dict.fromkeys(range(len(trainer.features)), ask)
    clients = {party: Client(1, frozenset()) for party in asks}
    tasks = {party: trainer.task(party, number) for party in asks}
    found = run(half, trainer, asks, clients, tasks)[0]
    if isinstance(found, Exception):
        raise found
    return Trained(found.bundles["weights"], int(found.weight), found.facts["train_loss"])


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Scikit-learn's breast cancer data: a laboratory and a clinic know different things of partly the same people."""
    folder = tmp_path_factory.mktemp("tables")
    data = load_breast_cancer()
    rng = np.random.default_rng(0)
    for name, columns in (("clinic", range(10)), ("laboratory", range(10, 30))):
        rows = rng.permutation(len(data.target))[:500]
        lines = [",".join(["patient", *(data.feature_names[c].replace(" ", "_") for c in columns)])]
        lines += [",".join([f"p{row}", *(repr(float(data.data[row, c])) for c in columns)]) for row in rows]
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    labels = [f"p{row},{data.target_names[y]}" for row, y in enumerate(data.target) if row % 10]
    (folder / "labels.csv").write_text("\n".join(["patient,finding", *labels]) + "\n")
    return folder


@pytest.mark.parametrize("parties", [2, 3])
def test_a_round_is_the_one_of_the_whole_network_where_all_features_lie_together(parties):
    _, _, model, trainer = _made(f"split.parties={parties}", "split.coverage=0.9")
    weights = {name: array.copy() for name, array in state(model).items()}
    update = _trained(trainer, weights, WORK, 3)
    together = np.concatenate(trainer.features, -1)
    reference = model.train()
    reference.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    start = {name: p.detach().clone() for name, p in reference.named_parameters()}
    optimiser = torch.optim.SGD(reference.parameters(), WORK.learning_rate, WORK.momentum)
    for chosen in batches.draw(len(together), WORK, rng_of(trainer._seed, 3)):
        optimiser.zero_grad()
        scores = reference(torch.from_numpy(together[chosen]))
        F.cross_entropy(scores, torch.from_numpy(trainer.labels[chosen])).backward()
        for name, parameter in reference.named_parameters():
            parameter.grad.add_(parameter.detach() - start[name], alpha=WORK.proximal_mu)
        optimiser.step()
    for name, array in state(reference).items():
        np.testing.assert_array_equal(update.arrays[name], array, err_msg=name)
    assert update.examples == len(together)


def test_each_row_that_is_trained_on_is_of_the_same_person_everywhere():
    _, dataset, _, trainer = _made("split.parties=3", "split.coverage=0.7")
    everything = load_dataset(load(None, ("data.clients=1", "data.partition=iid"))).client(0)
    # Digits are all different: an aligned row is one digit's strips side by side, with that digit's label.
    known = {x.tobytes(): y for x, y in zip(everything.x, everything.y, strict=True)}
    rows = np.concatenate(trainer.features, -1)
    found = [known.get(np.ascontiguousarray(x).tobytes()) for x in rows]
    matched = [(y, label) for y, label in zip(found, trainer.labels, strict=True) if y is not None]
    assert len(matched) > 0.6 * len(rows)  # the others are held out by the other experiment
    assert all(y == label for y, label in matched)
    held = {x.tobytes() for x in dataset.test.x} | {x.tobytes() for x in dataset.calibration.x}
    assert not held & {np.ascontiguousarray(x).tobytes() for x in rows}


def test_alignment_is_what_all_have_in_the_coordinators_order():
    rng = np.random.default_rng(0)
    people = [f"person {number}" for number in range(200)]
    own, *others = ([people[i] for i in rng.permutation(200)[:150]] for _ in range(4))
    rows, theirs = align(own, [Side(ids) for ids in others])
    everybody = set(own).intersection(*others)
    assert [own[row] for row in rows] == [one for one in own if one in everybody]
    for ids, chosen in zip(others, theirs, strict=True):
        assert [ids[row] for row in chosen] == [own[row] for row in rows]
    nobody, (none,) = align(["a"], [Side(["b"])])
    assert len(nobody) == len(none) == 0


def _over_streams(trainer, weights, settings, number, addresses, codec, window, service):
    """A round with a stream, a thread and a device for each party; returns the arrays, or what a party met."""
    drawn = batches.draw(len(trainer.labels), settings, rng_of(trainer._seed, number))
    trainer._server.begin(weights, settings, trainer._seed + number, [trainer.labels[step] for step in drawn])
    found = {}

    def one(party, address):
        task = task_of(trainer.features[party], trainer._seed, number)
        device = Device(trainer._devices[party], trainer._terms, weights, task, settings)
        try:
            with StreamLine(address, service.admit(party), codec, 60) as line:
                for _ in steps(device.exchanges(), line):
                    pass
                line.finish()
            found[party] = device.update().arrays
        except (LinkDownError, RefusedError, TrainingError) as error:
            found[party] = error

    threads = [threading.Thread(target=one, args=item) for item in addresses.items()]
    for thread in threads:
        thread.start()
    return threads, found


@pytest.mark.parametrize(
    ("codec", "window"),
    [("float32", 3), *(pytest.param(*more, marks=pytest.mark.long) for more in (("float32", 1), ("int8", 2)))],
)
def test_parties_over_grpc_end_with_the_bits_of_those_in_process(proxy, codec, window):
    _, _, model, trainer = _made(f"split.codec={codec}", f"split.window={window}", "split.parties=3")
    weights = {name: array.copy() for name, array in state(model).items()}
    direct = _trained(trainer, weights, WORK, 1).arrays
    service = SplitService(trainer._server, codec, window)
    server, port = listen(service, "127.0.0.1:0", 3, None)
    link = proxy(port)  # one party's link breaks again and again
    addresses = {0: link.address, 1: f"127.0.0.1:{port}", 2: f"127.0.0.1:{port}"}
    threads, found = _over_streams(trainer, weights, WORK, 1, addresses, codec, window, service)
    while threads[0].is_alive():
        threads[0].join(0.3)
        link.cut()
    for thread in threads:
        thread.join(60)
    assert all(isinstance(arrays, dict) for arrays in found.values()), found
    ours = trainer._server.weights() | found[0] | found[1] | found[2]
    assert link.cuts >= 2
    assert all(np.array_equal(ours[name], direct[name]) for name in direct)
    assert {name: one.finished for name, one in service.end().items()} == {0: True, 1: True, 2: True}
    server.stop(0)


def test_a_party_that_does_not_come_ends_the_round_for_the_others():
    _, _, model, trainer = _made("split.parties=3")
    service = SplitService(trainer._server, "float32", 1)
    server, port = listen(service, "127.0.0.1:0", 3, None)
    here = dict.fromkeys((0, 2), f"127.0.0.1:{port}")
    threads, found = _over_streams(trainer, state(model), WORK, 1, here, "float32", 1, service)
    threads[0].join(1.0)
    assert threads[0].is_alive()
    ended = service.end()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert {party: one.finished for party, one in ended.items()} == {0: False, 2: False}
    assert all("lacks the embeddings of party 1" in str(error) for error in found.values()), found
    server.stop(0)


def test_what_a_party_may_not_send_is_refused():
    _, _, model, trainer = _made("split.window=2")
    server = trainer._server
    with pytest.raises(RefusedError, match="the round has ended"):
        server.offer(0, Forward(1, np.zeros((16, 16), np.float32), None))
    server.begin(state(model), WORK, 0, [np.zeros(16, np.int64)] * 5)
    good = np.zeros((16, 16), np.float32)
    for message, complaint in (
        (Forward(2, good, None), "not party 0's turn"),
        (Forward(1, good[:4], None), "embeddings of step 1 have shape"),
        (Forward(1, good, np.zeros(16, np.int64)), "without labels"),
        (Backward(1, good), "without labels"),
    ):
        with pytest.raises(RefusedError, match=complaint):
            server.offer(0, message)
    server.offer(0, Forward(1, good, None))
    server.offer(0, Forward(2, good, None))
    with pytest.raises(RefusedError, match="more than 2 batches"):
        server.offer(0, Forward(3, good, None))
    with pytest.raises(TrainingError, match="step 1 waits for the embeddings of party 1"):
        server.take(0, 1)
    with pytest.raises(RefusedError, match="without labels"):
        server.expects(0, 1, backward=True)


def test_tables_of_a_laboratory_and_a_clinic_train_together(tables, tmp_path, heard):
    overrides = (
        f"data.source=parties:{tables}", "federation.rounds=15", "training.learning_rate=0.05",
        "export.presets=['int8']", "export.tolerance=0.1",
    )  # fmt: skip
    result = job.run(load(None, (*QUICK, *overrides)), tmp_path / "run", heard)
    assert result["accuracy"] > 0.93
    said = " ".join(heard.notices)
    assert "by private set intersection" in said
    assert "features of 2 parties" in said
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["bytes_up"] > 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "laboratory" in page
    assert "the coordinator sees what each party&#39;s network makes" in page
    assert result["tflite"]["int8"]["accuracy"] > 0.9


def test_a_table_is_scaled_by_its_party_and_wrong_ones_are_named(tables, tmp_path):
    read = read_table(tables / "clinic.csv")
    x = scaled(read, scale_of(read)).x
    assert np.allclose(x.mean(0), 0, atol=1e-5)
    assert np.allclose(x.std(0), 1, atol=1e-4)
    same = tmp_path / "same.csv"
    same.write_text("id,age,height\n" + "".join(f"{number},{number},0.1\n" for number in range(120)))
    assert scale_of(read_table(same)).std[1] == 1.0  # of the same number again and again
    good = "id,age,height\na,1,2\nb,3,4\n"
    for text, complaint in (
        ("", "holds no rows"),
        ("id,age\n", "holds no rows"),
        ("id\na\n", "ids alone"),
        (good + "c,5\n", "line 4 has 2 columns, its heading 3"),
        (good + "c,5,tall\n", "line 4, column 3 holds no number"),
        (good + "c,,1\n", "line 4, column 2 holds no number"),
        (good + "secret,5,6\nsecret,5,6\n", "lines 4 and 5 have the same id"),
        (good + ",5,6\n", "line 4: the id is empty"),
    ):
        path = tmp_path / "party.csv"
        path.write_text(text)
        with pytest.raises(DataError, match=complaint) as told:
            read_table(path)
        assert not any(private in str(told.value) for private in ("tall", "secret"))  # a coordinator may read it
    np.savez(tmp_path / "party.npz", x=np.zeros((3, 2)))
    with pytest.raises(DataError, match="it needs ids and x"):
        read_table(tmp_path / "party.npz")
    np.savez(tmp_path / "party.npz", x=np.ones((3, 2), np.float32), ids=np.array([7, 8, 9]))
    assert list(read_table(tmp_path / "party.npz").ids) == ["7", "8", "9"]


def test_folders_that_do_not_fit_are_told_in_a_line(tables, tmp_path):
    def complaint(folder, *overrides):
        with pytest.raises(DataError) as told:
            load_dataset(load(None, (*QUICK, f"data.source=parties:{folder}", *overrides)))
        return str(told.value)

    assert "is not a folder of tables" in complaint(tmp_path / "none")
    assert "needs one table of labels" in complaint(tmp_path)
    assert "has tables of 2 parties, split.parties is 3" in complaint(tables, "split.parties=3")
    for name in ("labels", "a", "b"):
        (tmp_path / f"{name}.csv").write_text(f"id,v\n{name}1,1\n{name}2,2\n")
    assert "only 0 ids have a label and a row in each party's table" in complaint(tmp_path)
    assert "too few for 9 parties" in _complaint_of_digits("split.parties=9")


def _complaint_of_digits(*overrides):
    with pytest.raises(DataError) as told:
        load_dataset(load(None, (*QUICK, *overrides)))
    return str(told.value)


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["split.labels=device"], "the coordinator has the labels"),
        (["privacy.unit=example"], "is not protected yet"),
        (["split.cut=auto"], "leave split.cut empty"),
        (["federation.cohort=1"], "all take part in each round"),
        (["spiking.enabled=true"], "no spiking form"),
        (["training.trainer=cohort"], "a trainer of its own"),
        (["split.parties=0", "data.source=parties:here"], "set split.parties"),
        (["split.no_peek=1"], "set it to 0"),
    ],
)
def test_experiments_that_contradict_themselves_are_refused(overrides, complaint):
    with pytest.raises(ExperimentError, match=complaint):
        load(None, (*QUICK, *overrides))
