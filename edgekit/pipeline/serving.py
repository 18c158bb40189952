"""The main job with a real fleet: Flower's server app, which the SuperExec starts for `edgekit serve`."""

import hashlib
import logging
import os
import signal
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from torch import nn

from edgekit import experiment as experiments
from edgekit import logs, plugins
from edgekit.algorithms.base import Algorithm
from edgekit.algorithms.slices import Sliced
from edgekit.clients.node.delivery import Delivery
from edgekit.clients.torch_trainer import load_weights
from edgekit.data import FederatedDataset
from edgekit.errors import EdgekitError, RunFolderError, StoppedError
from edgekit.export.tflite import Subject, as_device, export
from edgekit.export.verify import run_examples
from edgekit.pipeline import job
from edgekit.pipeline.widths import WIDTHS, networks_of
from edgekit.privacy.statement import for_owners
from edgekit.processes import when_parent_ends
from edgekit.runfolder import RunFolder, append_line, measure_of, read_lines, secret_number
from edgekit.server.deployment.authority import Authority
from edgekit.server.deployment.enrolment import members_in
from edgekit.server.engines.fleet.engine import FleetEngine
from edgekit.server.engines.fleet.interactive import Fleet, engine_of
from edgekit.server.engines.fleet.parties import PartyEngine
from edgekit.server.engines.fleet.party_host import PartyHost
from edgekit.server.engines.fleet.streams import SplitHost
from edgekit.server.loop import checkpoint
from edgekit.server.loop.metrics import RoundMetrics
from edgekit.transforms.base import Mechanism
from edgekit.trust import Gate
from edgekit.version import __version__

log = logging.getLogger("edgekit.serving")

PROBES = 4
"""Examples that a delivered model is tested with on the device; they are the coordinator's own."""
PROBE_TOLERANCE = 0.02
"""How far its scores may be off there, as a share of the largest."""
LINGER_SECONDS = 2.0
DELIVERED = "int8"
MOST_ROUNDS_SHOWN = 200

app = ServerApp()


@app.main()  # type: ignore[untyped-decorator]
def main(grid: Grid, context: Context) -> None:
    """Run the experiment of a run folder with the nodes of a SuperLink, and deliver its model."""
    logs.begin()
    stops = Stops()
    when_parent_ends(stops.orphaned)
    plugins.guard(Gate((), asks=False))
    folder = RunFolder.open(Path(str(context.run_config["folder"])))
    events = Events(folder)
    settings = context.run_config
    fleet: NodesOfAGrid | None = None
    try:
        authority = Authority(Path(str(settings["keys"])))
        address, tls = str(settings.get("split-address", "")), settings.get("split-tls") != "no"
        fleet = NodesOfAGrid(grid, folder, authority, events, address, tls)
        result = job.serve(folder, events, fleet)
        if result["interrupted"]:
            raise KeyboardInterrupt
        events.finished(result)
        fleet.deliver_for_good(result)
    except KeyboardInterrupt:
        raise StoppedError("the server app was asked to stop") from None
    except EdgekitError as error:
        events.failed(str(error))
        log.error("%s", error)
        raise
    finally:
        if fleet is not None:
            fleet.close()


class Stops:
    """How the server app ends: asked to, it writes the result of the rounds done; with the SuperExec, at once."""

    def __init__(self) -> None:
        self._asked = False
        signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, *_: object) -> None:
        if not self._asked:  # once: what is written then is not to be disturbed
            self._asked = True
            raise KeyboardInterrupt

    def orphaned(self) -> None:
        """End at once: what counts is on the disk, whole."""
        if not self._asked:
            log.warning("the SuperExec has ended: the server app stops too")
            os._exit(1)


class Events:
    """Tells the process that people look at what happens: a line an event in `events.jsonl` of the run folder."""

    def __init__(self, folder: RunFolder) -> None:
        self._path = folder.path / "events.jsonl"

    def stage(self, name: str) -> None:
        """A stage begins."""
        append_line(self._path, {"stage": name})

    def round(self, metrics: RoundMetrics, rounds: int) -> None:
        """A round ended."""
        append_line(self._path, {"round": vars(metrics), "rounds": rounds})

    def notice(self, line: str) -> None:
        """Something a person should know."""
        log.info("%s", line)
        append_line(self._path, {"notice": line})

    def failed(self, line: str) -> None:
        """The run cannot go on."""
        append_line(self._path, {"failed": line})

    def finished(self, result: dict[str, Any]) -> None:
        """The job is done; models may still be delivered."""
        measure, score = measure_of(result)
        told = {"measure": measure, measure: score, "rounds": result["rounds"], "seconds": result["seconds"]}
        append_line(self._path, {"finished": told})


class NodesOfAGrid:
    """The fleet behind Flower's grid, for the main job (see `job.Fleet`).

    Args:
        grid: Flower's, of a run on a SuperLink.
        folder: the run folder, with its experiment.
        authority: whose key signs what nodes are sent.
        events: told what happens.
        split_address: host:port for a split server to listen on.
        split_tls: whether it does so with TLS.
    """

    def __init__(
        self,
        grid: Grid,
        folder: RunFolder,
        authority: Authority,
        events: Events,
        split_address: str,
        split_tls: bool,
    ) -> None:
        self._split_address, self._split_tls = split_address, split_tls
        self._host: SplitHost | PartyHost | None = None
        self._grid, self._folder, self._authority, self._events = grid, folder, authority, events
        self._experiment = experiments.load(folder.experiment)
        self._deliveries: dict[str | None, Delivery] = {}
        self._parts: tuple[FleetEngine | PartyEngine, FederatedDataset, nn.Module] | None = None
        path = folder.path / "secret"
        lost = RunFolderError(f"{path} cannot be read, and spent privacy not be counted without it: restore it")
        self.private_seed = secret_number(path, 128, lost)

    def engine(
        self, dataset: FederatedDataset, model: nn.Module, algorithm: Algorithm, mechanism: Mechanism | None
    ) -> FleetEngine | PartyEngine:
        """Return the nodes."""
        plan = None if mechanism is None else mechanism.plan_made
        owners = for_owners(algorithm.unprotected if mechanism is None else mechanism.statement(), plan)
        fleet = Fleet(
            grid=self._grid,
            experiment=self._experiment,
            folder=self._folder,
            sign=self._authority.sign,
            members=partial(members_in, self._authority.folder.parent),
            notice=self._events.notice,
            address=self._split_address,
            keys=self._authority.server_keys if self._split_tls else None,
            run_id=hashlib.sha256(f"run {self.private_seed}".encode()).hexdigest()[:16],
        )
        made, self._host = engine_of(fleet, algorithm, dataset, model, plan)
        self._parts = made, dataset, model
        made.presence.progress = self._progress(owners)
        return made

    def close(self) -> None:
        """Let go of the streams' port."""
        if self._host is not None:
            self._host.close()

    def after_round(self, metrics: RoundMetrics) -> None:
        """Watch for drift, and deliver the model as it is, as often as the experiment says."""
        settings, number = self._experiment.serve, metrics.round
        engine, dataset, model = self._all
        algorithm = engine.algorithm
        engine.presence.progress = self._progress(engine.presence.progress["privacy"])
        last = number == self._experiment.federation.rounds
        watched = bool(settings.statistics_every) and number % settings.statistics_every == 0
        delivered = bool(settings.deliver_every) and number % settings.deliver_every == 0 and not last
        if not (watched or delivered):
            return
        found = checkpoint.latest(self._folder.checkpoint)
        assert found is not None
        if watched:
            engine.watch(number, {**algorithm.model(found.state), **found.buffers})
        if delivered:
            whole = found.average or {**algorithm.model(found.state), **found.buffers}
            load_weights(model, whole)
            networks: dict[str | None, nn.Module] = {None: model.eval()}
            if isinstance(algorithm, Sliced):
                narrower = networks_of(algorithm, whole, self._experiment, dataset)
                networks = {algorithm.names[0]: model, **{name: narrower[name] for name in narrower}}
            card = {"edgekit": __version__, "name": self._experiment.name, "round": number}
            for name, network in networks.items():
                try:
                    with tempfile.TemporaryDirectory() as place:
                        subject, tolerance = Subject.of(network, dataset), self._experiment.export.tolerance
                        made = export(subject, [DELIVERED], Path(place), card, tolerance)[DELIVERED]
                        self._deliver(made.path.read_bytes(), number, made.score, made.measure, name)
                except EdgekitError as error:
                    self._events.notice(f"round {number}: no model is delivered: {error}")

    def deliver_for_good(self, result: dict[str, Any]) -> None:
        """Deliver the finished model, to nodes that come back later too; it does not return.

        Nothing to deliver ends it at once.
        """
        engine, _, _ = self._all
        measure, score = measure_of(result)
        engine.presence.progress |= {"finished": {measure: score, "rounds": result["rounds"]}}
        if engine.keeps_model:
            self._events.notice(f"no model is delivered: {engine.keeps_model}")
            return
        files: dict[str | None, dict[str, Any]] = {None: result["tflite"]}
        if isinstance(engine.algorithm, Sliced):
            rows = result[WIDTHS]
            widths = zip(engine.algorithm.names, engine.algorithm.settings.widths, strict=True)
            files = {name: rows[f"{width:g}"].get("tflite", result["tflite"]) for name, width in widths}
        for name in [name for name, held in files.items() if DELIVERED not in held]:
            whose = "" if name is None else f" of width {name or 1}"
            self._events.notice(f"no model{whose} is delivered: the run has no {DELIVERED} file (export.presets)")
            del files[name]
        if not files:
            return
        delivered = {
            name: ((self._folder.path / held[DELIVERED]["path"]).read_bytes(), held[DELIVERED][measure])
            for name, held in files.items()
        }
        self._events.notice("nodes that were away get the model when they come back; Ctrl-C stops")
        while True:
            for name, (content, reached) in delivered.items():
                self._deliver(content, result["rounds"], reached, measure, name)
            time.sleep(LINGER_SECONDS)

    def _progress(self, privacy: str) -> dict[str, Any]:
        """Return what gateways show to people of the rounds so far."""
        told = ("round", "accuracy", "epsilon", "replies", "seconds")
        done = [
            {key: line[key] for key in told} for line in list(read_lines(self._folder.metrics))[-MOST_ROUNDS_SHOWN:]
        ]
        rounds = self._experiment.federation.rounds
        return {"run": self._experiment.name, "rounds": rounds, "done": done, "privacy": privacy}

    def _deliver(self, content: bytes, version: int, score: float, measure: str, network: str | None) -> None:
        engine, dataset, _ = self._all
        if network not in self._deliveries or self._deliveries[network].version != version:
            probe = as_device(dataset.calibration.x[:PROBES])
            scores = run_examples(content, probe).scores
            name = self._experiment.name
            made = Delivery(content, version, name, score, probe, scores, PROBE_TOLERANCE, measure)
            self._deliveries[network] = made
        engine.presence.there()
        took, asked = engine.deliver(self._deliveries[network], network)
        if asked:
            whose = f" of width {network or 1}" if network is not None else ""
            self._events.notice(f"model version {version}{whose}: {took} of {asked} nodes took it into use")

    @property
    def _all(self) -> tuple[FleetEngine | PartyEngine, FederatedDataset, nn.Module]:
        assert self._parts is not None
        return self._parts
