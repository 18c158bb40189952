"""The ledger of all runs on the same data: a Renyi filter, its data, its damage, and the runs that it lets in."""

import json
import stat
import threading

import numpy as np
import pytest

from edgekit.cli.app import main
from edgekit.errors import PrivacyError
from edgekit.guarantee import Charge
from edgekit.pipeline import job
from edgekit.privacy import chain
from edgekit.privacy.accounting import ORDERS, renyi
from edgekit.privacy.filter import Filter, Total, best_order
from edgekit.runfolder import RunFolder
from edgekit.server.loop import checkpoint

DELTA = 1e-5


def _total(epsilon=8.0, unit="example", delta=DELTA, order=0):
    return Total(epsilon, delta, unit, order or best_order(epsilon, delta))


def _charge(number=1, draw="a", unit="example", noise=2.0, rate=0.5, steps=3):
    return Charge(number, unit, "server", noise, rate, steps, None, draw)


@pytest.fixture
def shared(tmp_path):
    return Filter.create(tmp_path / "all.ledger", _total())


def _accountants(history, order, delta):
    from dp_accounting import dp_event
    from dp_accounting.rdp import rdp_privacy_accountant

    accountant = rdp_privacy_accountant.RdpAccountant([order])
    for noise, rate, steps in history:
        event = dp_event.GaussianDpEvent(noise)
        accountant.compose(event if rate == 1 else dp_event.PoissonSampledDpEvent(rate, event), steps)
    return accountant.get_epsilon(delta)


@pytest.mark.parametrize("order", [2, 8, 31, 128])
def test_what_is_added_up_is_dp_accountings_at_the_same_order(tmp_path, order):
    history = [(8.0, 0.3, 20), (20.0, 1.0, 5), (40.0, 0.01, 300)]
    made = Filter.create(tmp_path / "all.ledger", _total(90.0, order=order))
    for number, (noise, rate, steps) in enumerate(history):
        made.charge("r", [_charge(number, noise=noise, rate=rate, steps=steps)])
    assert made.epsilon == pytest.approx(_accountants(history, order, DELTA), rel=1e-3)


def test_the_order_is_the_one_at_which_a_gaussian_may_spend_most():
    for epsilon in (0.5, 2.0, 8.0, 50.0):
        best = best_order(epsilon, DELTA)
        lasts = {order: _total(epsilon, order=order).divergence / renyi(3.0, 1.0, order) for order in ORDERS}
        assert lasts[best] == max(lasts.values())


def test_runs_add_up_to_the_total_and_no_further(shared):
    each = shared.share(2.0, 0.5, 3)
    number = 0
    while shared.left >= each:
        number += 1
        shared.charge(f"run {number}", [_charge()])
        shared.charge(f"run {number}", [_charge()])  # again with the same random numbers: nothing new
    with pytest.raises(PrivacyError, match="nothing more can be learnt from these data"):
        shared.charge("one more", [_charge()])
    again = Filter(shared.path)
    assert again.runs == {f"run {i + 1}": pytest.approx(each) for i in range(number)}
    assert again.epsilon <= 8.0
    assert again.left < each


def test_what_protects_single_examples_voids_a_ledger_of_clients_and_not_the_other_way(tmp_path, shared):
    clients = Filter.create(tmp_path / "clients.ledger", _total(unit="client"))
    with pytest.raises(PrivacyError, match="is void once single examples"):
        clients.charge("r", [_charge()])
    shared.charge("r", [_charge(unit="client")])


def test_several_at_once_lose_nothing(shared):
    def charging(name):
        own = Filter(shared.path)
        for number in range(8):
            own.charge(name, [_charge(number, noise=50.0)])

    threads = [threading.Thread(target=charging, args=(f"run {i}",)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = Filter(shared.path)
    assert len(found.runs) == 6
    assert found.rounds == 48
    assert 1 - found.left == pytest.approx(48 * found.share(50.0, 0.5, 3))


def test_what_another_process_adds_while_it_is_read_does_not_look_like_damage(shared, monkeypatch):
    reading = chain.read_lines

    def meanwhile(path):
        lines = list(reading(path))
        monkeypatch.setattr(chain, "read_lines", reading)
        Filter(shared.path).charge("another", [_charge()])
        return iter(lines)

    monkeypatch.setattr(chain, "read_lines", meanwhile)
    assert Filter(shared.path).runs == {}
    assert list(Filter(shared.path).runs) == ["another"]


def test_the_same_data_and_more_of_it_are_known_again_and_others_are_not(shared):
    rng = np.random.default_rng(0)
    old, new, other = ([rng.bytes(20) for _ in range(5000)] for _ in range(3))
    shared.check_data(old)
    shared.check_data(old[::-1])
    shared.check_data([*new, *old])  # grown
    shared.check_data(new)
    lines = len(shared.path.read_text().splitlines())
    with pytest.raises(PrivacyError, match="counts other data"):
        Filter(shared.path).check_data(other)
    assert len(shared.path.read_text().splitlines()) == lines


def test_the_key_is_its_owners_alone_and_needed(shared):
    key = shared.path.with_name("all.ledger.key")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    shared.check_data([b"a", b"b"])
    assert key.read_text() not in shared.path.read_text()
    key.unlink()
    with pytest.raises(PrivacyError, match="all.ledger.key cannot be read: put it back"):
        shared.check_data([b"a", b"b"])


def test_lines_that_were_cut_changed_or_put_in_are_refused(shared):
    for number in range(3):
        shared.charge("r", [_charge(number)])
    whole = shared.path.read_text()
    lines = whole.splitlines(keepends=True)
    cheaper = whole.replace('"noise_multiplier": 2.0', '"noise_multiplier": 9.0', 1)
    for damaged, words in (
        ("".join(lines[:-1]), "does not hold all that was spent"),
        ("".join([*lines[:2], *lines[3:]]), "line 3 does not follow"),
        (cheaper, "line 2 does not follow"),
        (whole.replace("8.0", "80.0", 1), "line 1 does not follow"),
        ("[]\n", "does not follow"),
        ('{"total": {}}\n{"run": "a"}\n', "does not follow"),
        ("", "is missing"),
    ):
        shared.path.write_text(damaged)
        with pytest.raises(PrivacyError, match=words):
            Filter(shared.path)
    shared.path.write_text(whole)
    assert Filter(shared.path).rounds == 3


def test_what_is_left_of_a_ledger_is_not_overwritten_and_a_missing_head_is_said(shared):
    shared.charge("r", [_charge()])
    key, head = (shared.path.with_name(f"all.ledger.{what}") for what in ("key", "head"))
    whole, secret = shared.path.read_bytes(), key.read_bytes()
    shared.path.unlink()
    with pytest.raises(PrivacyError, match="exists: a total is fixed once"):
        Filter.create(shared.path, _total())
    with pytest.raises(PrivacyError, match="all.ledger is missing: put it back"):
        Filter(shared.path)
    assert key.read_bytes() == secret
    shared.path.write_bytes(whole)
    head.unlink()
    with pytest.raises(PrivacyError, match="all.ledger.head is missing: put it back"):
        Filter(shared.path)


def test_a_round_is_charged_with_one_setting_and_no_other(shared):
    shared.charge("r", [_charge(noise=10.0)])
    with pytest.raises(PrivacyError, match="with other settings"):
        shared.charge("r", [_charge(noise=0.9)])


@pytest.fixture
def experiment_of(shared, make_experiment):
    def make(*more, epsilon=4.0):
        return make_experiment(
            *("privacy.unit=example", "privacy.randomness=system", f"privacy.epsilon={epsilon}", "model.name=mlp"),
            *(f"privacy.ledger={shared.path}", "export.presets=[]", "spiking.enabled=false", *more),
        )

    return make


@pytest.fixture
def stop_after_a_round(heard, monkeypatch):
    """Runs an experiment that is stopped once its first round is kept."""

    def run(experiment, out):
        kept = checkpoint.save

        def interrupted(folder, made, **more):
            kept(folder, made, **more)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "save", interrupted)
            job.run(experiment, out, heard)

    return run


def test_runs_that_name_it_share_one_total(shared, experiment_of, tmp_path, heard):
    for name in ("one", "two"):
        job.run(experiment_of(), tmp_path / name, heard)
    found = Filter(shared.path)
    assert len(found.runs) == 2
    assert found.rounds == 4
    assert 4.0 < found.epsilon < 8.0
    before = shared.path.read_text()
    with pytest.raises(PrivacyError, match="of its total left"):
        job.run(experiment_of(epsilon=7.5), tmp_path / "three", heard)
    assert shared.path.read_text() == before, "what has no room is charged nothing"
    assert not (tmp_path / "three").exists()
    with pytest.raises(PrivacyError, match="counts other data"):
        job.run(experiment_of("data.source=gestures", epsilon=1.0), tmp_path / "four", heard)
    result = json.loads((tmp_path / "one" / "result.json").read_text())
    assert result["privacy"]["epsilon"] <= 4.0


def test_a_run_that_is_resumed_is_the_same_run(shared, experiment_of, tmp_path, heard, stop_after_a_round):
    stop_after_a_round(experiment_of(), tmp_path / "run")
    job.resume(tmp_path / "run", heard)
    assert Filter(shared.path).rounds >= 2
    (name,) = Filter(shared.path).runs
    assert name.split()[-1] == RunFolder(tmp_path / "run").checkpoint.joinpath("run.txt").read_text().strip()


def test_a_run_goes_on_in_the_ledger_that_it_was_charged_to(shared, experiment_of, tmp_path, heard, stop_after_a_round):
    stop_after_a_round(experiment_of(), tmp_path / "run")
    settings = tmp_path / "run" / "experiment.toml"
    Filter.create(tmp_path / "other", _total(50.0))
    settings.write_text(settings.read_text().replace(str(shared.path), str(tmp_path / "other")))
    with pytest.raises(PrivacyError, match="is not the ledger that this run was charged to"):
        job.resume(tmp_path / "run", heard)


def test_a_ledger_that_others_fill_meanwhile_ends_the_run_and_is_named(shared, experiment_of, tmp_path, heard):
    def fill(metrics, rounds):
        if metrics.round == 1:
            while Filter(shared.path).left > 0.02:
                left = Filter(shared.path).left
                steps = max(1, int(0.5 * left / shared.share(5.0, 1.0, 1)))
                shared.charge("others", [_charge(draw=str(left), noise=5.0, rate=1.0, steps=steps)])

    heard.round = fill
    result = job.run(experiment_of(), tmp_path / "run", heard)
    assert result["rounds"] == 1
    assert any("all.ledger has not enough left" in line for line in heard.notices)


def test_clients_are_known_as_wholes_where_they_are_protected_as_such(tmp_path, experiment_of, heard):
    clients = Filter.create(tmp_path / "clients.ledger", _total(unit="client"))
    of = [f"privacy.ledger={clients.path}", "privacy.unit=client", "federation.rounds=1"]
    job.run(experiment_of(*of, epsilon=1.0), tmp_path / "one", heard)
    with pytest.raises(PrivacyError, match="counts other data"):
        job.run(experiment_of(*of, "data.clients=20", epsilon=1.0), tmp_path / "two", heard)


def test_what_does_not_go_with_it_is_refused_at_the_start(tmp_path, experiment_of, heard, shared):
    for changed, words in (
        (["privacy.randomness=seed"], "set privacy.randomness = 'system'"),
        ([f"privacy.ledger={tmp_path}/none"], "does not exist or is empty"),
        ([f"privacy.ledger={tmp_path}"], "is a folder"),
    ):
        with pytest.raises(PrivacyError, match=words):
            job.run(experiment_of(*changed), tmp_path / "run", heard)
    Filter.create(tmp_path / "lavish", _total(delta=1e-3))
    with pytest.raises(PrivacyError, match="above 1/"):
        job.run(experiment_of(f"privacy.ledger={tmp_path}/lavish"), tmp_path / "run", heard)


def _told(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        main(["privacy", *map(str, arguments)])
    out = capsys.readouterr()
    return end.value.code, out.out, out.err


def test_the_command_makes_one_and_the_report_reads_it(tmp_path, capsys):
    path = tmp_path / "patients.ledger"
    code, out, _ = _told(capsys, "ledger", path, "--epsilon", "8")
    assert code == 0
    assert "all runs that name it spend epsilon 8 at delta 1e-05 of one example together" in out
    code, _, err = _told(capsys, "ledger", path, "--epsilon", "9")
    assert code == 1
    assert "a total is fixed once" in err
    Filter(path).charge("digits 01", [_charge()])
    code, out, _ = _told(capsys, "report", path)
    assert code == 0
    assert "of the total by digits 01" in out
    code, out, _ = _told(capsys, "report", path, "--json")
    assert json.loads(out)["left"] == pytest.approx(Filter(path).left, abs=1e-6)
    assert path.with_name("patients.ledger.key").read_text() not in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--epsilon", "8", "--unit", "person"], "example or client"),
        (["--epsilon", "0.001", "--order", "2"], "nothing can be spent of epsilon 0.001"),
        (["--epsilon", "8", "--order", "77"], "leave --order out"),
        (["--epsilon", "8", "--order", "1"], "leave --order out"),
        (["--epsilon", "8", "--order", "-3"], "leave --order out"),
        (["--epsilon", "nan"], "leave --order out"),
        (["--epsilon", "-1"], "--epsilon"),
    ],
)
def test_a_total_that_makes_no_sense_is_refused(tmp_path, capsys, arguments, words):
    code, _, err = _told(capsys, "ledger", tmp_path / "x", *arguments)
    assert code
    assert words in err
    assert not list(tmp_path.iterdir())
