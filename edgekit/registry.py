"""What an experiment can name: built-in things, those of installed packages, and one's own by import path.

All kinds are listed, described and missed alike. Nothing is imported before it is needed.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from edgekit import plugins
from edgekit.errors import EdgekitError, ExperimentError


@dataclass(frozen=True)
class Entry:
    """A thing with a name.

    Attributes:
        path: `package.module:name` of it.
        summary: one line for people.
        source: the paper, or whatever it comes from.
    """

    path: str
    summary: str = ""
    source: str = ""


class Registry(Mapping[str, Entry]):
    """Things of one kind, by name: edgekit's own, and those that installed packages add by entry points.

    Args:
        key: of the experiment that names one, such as `model.name`.
        built_in: edgekit's own. A name such as `npz:FILE` stands for all that begin with `npz:`.
        group: of entry points; their names become names here, their values import paths.
    """

    def __init__(self, key: str, built_in: Mapping[str, Entry], group: str) -> None:
        self.key, self._built_in, self._group = key, dict(built_in), group
        self._all: dict[str, Entry] | None = None

    def __getitem__(self, name: str) -> Entry:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def entry(self, name: str) -> Entry:
        """Return what a name means, without importing it.

        Raises:
            ExperimentError: nothing; the message tells the nearest name that means something.
        """
        if name in self._built_in:
            return self._built_in[name]
        kind, separator, place = name.partition(":")
        if separator and place and f"{kind}:" in self._kinds:
            return self._entries[self._kinds[f"{kind}:"]]
        if plugins.is_import_path(name):
            return Entry(name)
        if name in self._entries:
            return self._entries[name]
        near = difflib.get_close_matches(name, [*self._entries, *self._kinds], n=1)
        known = ", ".join(self._entries) or "none"
        hint = f"did you mean {self._kinds.get(near[0], near[0])!r}?" if near else f"known are {known}."
        raise ExperimentError(f"{self.key} {name!r} is unknown; {hint} Or give package.module:name")

    def load(self, name: str) -> Any:
        """Import and return what a name means.

        Raises:
            ExperimentError: nothing, or it cannot be imported.
        """
        return plugins.load(self.entry(name).path, self.key)

    @property
    def _kinds(self) -> dict[str, str]:
        """Names such as `npz:FILE`, by what they begin with."""
        return {name[: name.index(":") + 1]: name for name in self._entries if ":" in name}

    @property
    def _entries(self) -> dict[str, Entry]:
        if self._all is None:
            found = dict(self._built_in)
            for point in entry_points(group=self._group):
                package = point.dist.name if point.dist is not None else point.module
                if point.name in found:
                    raise EdgekitError(
                        f"{self.key} {point.name!r} has two meanings: {found[point.name].path}, and {point.value} of "
                        f"the package {package}; uninstall one of them"
                    )
                found[point.name] = Entry(point.value, f"of the package {package}")
            self._all = found
        return self._all


MODELS = Registry(
    "model.name",
    {
        "mlp": Entry("edgekit.models.mlp:MLP", "fully connected layers with ReLU", "Rumelhart et al. 1986"),
        "cnn": Entry("edgekit.models.cnn:CNN", "convolutions and max pooling", "LeCun et al. 1998"),
        "dscnn": Entry(
            "edgekit.models.dscnn:DSCNN", "depthwise separable convolutions", "Howard et al. 2017, MobileNets"
        ),
        "mobilenetv2": Entry(
            "edgekit.models.mobilenetv2:MobileNetV2",
            "inverted residuals with linear bottlenecks, ReLU6, width multiplier",
            "Sandler et al. 2018",
        ),
        "mobilenetv3": Entry(
            "edgekit.models.mobilenetv3:MobileNetV3",
            "inverted residuals, squeeze-excite, hard swish (the small one)",
            "Howard et al. 2019",
        ),
        "efficientnet": Entry(
            "edgekit.models.efficientnet:EfficientNet",
            "depth, width and resolution scaled by one coefficient",
            "Tan & Le 2019",
        ),
        "shufflenet": Entry(
            "edgekit.models.shufflenet:ShuffleNet", "channels split, convolved and shuffled (V2)", "Ma et al. 2018"
        ),
        "vit": Entry(
            "edgekit.models.vit:ViT",
            "transformer over patches; softmax, performer or longformer attention",
            "Dosovitskiy et al. 2021; Choromanski et al. 2021; Beltagy et al. 2020",
        ),
        "cnn-vit": Entry(
            "edgekit.models.cnn_vit:CNNViT", "convolutions, then a transformer over their map", "Xiao et al. 2021"
        ),
        "mixer": Entry(
            "edgekit.models.mixer:Mixer", "layers over tokens and channels in turn", "Tolstikhin et al. 2021"
        ),
        "capsule": Entry("edgekit.models.capsule:Capsule", "capsules with dynamic routing", "Sabour et al. 2017"),
        "ode": Entry("edgekit.models.ode:ODE", "a differential equation in steps of Runge-Kutta", "Chen et al. 2018"),
        "experts": Entry(
            "edgekit.models.experts:Experts",
            "a gate and experts, soft or top-1; all experts are computed",
            "Jacobs et al. 1991; Fedus et al. 2022",
        ),
        "exits": Entry(
            "edgekit.models.exits:Exits",
            "an answer after each stage; sure examples leave early",
            "Teerapittayanon et al. 2016",
        ),
        "autoencoder": Entry(
            "edgekit.models.autoencoder:Autoencoder",
            "gives examples back through a narrow code, for what is not normal",
            "Koizumi et al. 2019; Banbury et al. 2021",
        ),
        "gated": Entry("edgekit.models.gated:Gated", "blocks that examples leave out", "Veit & Belongie 2018"),
        "keyword-dscnn": Entry(
            "edgekit.models.keyword_dscnn:KeywordDSCNN",
            "MLPerf Tiny's network for spoken keywords",
            "Zhang et al. 2018; Banbury et al. 2021",
        ),
        "tcn": Entry(
            "edgekit.models.tcn:TCN", "causal convolutions with growing dilation, for sequences", "Bai et al. 2018"
        ),
        "s4d": Entry("edgekit.models.s4d:S4D", "diagonal state spaces, as convolutions", "Gu et al. 2022"),
        "ssd": Entry("edgekit.models.ssd:SSD", "selective state spaces, as products (Mamba-2)", "Dao & Gu 2024"),
        "gru": Entry("edgekit.models.gru:GRU", "a gated recurrent unit", "Cho et al. 2014"),
        "mingru": Entry(
            "edgekit.models.mingru:MinGRU", "recurrent units without recurrence in gates", "Feng et al. 2024"
        ),
        "fusion": Entry(
            "edgekit.models.fusion:Fusion",
            "an encoder an input, joined late or by cross-attention, for two inputs",
            "Ngiam et al. 2011; Tsai et al. 2019",
        ),
        "graph": Entry(
            "edgekit.models.graph:Graph",
            "convolutions or attention over neighbours (gcn, gat), for graphs",
            "Kipf & Welling 2017; Velickovic et al. 2018",
        ),
        "spiking-mlp": Entry(
            "edgekit.models.spiking:SpikingMLP",
            "fully connected leaky integrate-and-fire neurons",
            "Neftci et al. 2019",
        ),
        "spiking-cnn": Entry(
            "edgekit.models.spiking:SpikingCNN",
            "convolutions of leaky integrate-and-fire neurons",
            "Neftci et al. 2019",
        ),
    },
    "edgekit.models",
)
SOURCES = Registry(
    "data.source",
    {
        "digits": Entry("edgekit.data.readers:digits", "handwritten digits, 8 x 8", "Alpaydin & Kaynak 1998"),
        "moving-digits": Entry("edgekit.data.readers:moving_digits", "events of digits that move", "made here"),
        "gestures": Entry("edgekit.data.readers:hand_gestures", "accelerations of hand movements", "made here"),
        "machine-sounds": Entry("edgekit.data.readers:machine_sounds", "sounds of fans, some not normal", "made here"),
        "presence": Entry(
            "edgekit.data.readers:presence", "pictures with a digit among clutter, or without", "made here"
        ),
        "npz:FILE": Entry("edgekit.data.readers:npz", "arrays x, y and perhaps groups", "numpy"),
        "idx:FOLDER": Entry("edgekit.data.readers:idx", "MNIST's files", "LeCun et al. 1998"),
        "csv:FILE": Entry("edgekit.data.readers:table", "a table, or a folder of one a client"),
        "parquet:FILE": Entry("edgekit.data.readers:table", "likewise"),
        "images:FOLDER": Entry("edgekit.data.readers:pictures", "a folder of pictures a class"),
        "audio:FOLDER": Entry("edgekit.data.readers:recordings", "recordings, as log-mel features"),
        "events:FOLDER": Entry("edgekit.data.readers:event_files", "files of event cameras"),
        "superpixels:SOURCE": Entry(
            "edgekit.data.readers:superpixel_graphs", "another source's images as graphs", "Dwivedi et al. 2023"
        ),
        "hf:NAME": Entry("edgekit.data.readers:hub_dataset", "a data set of the `datasets` library"),
        "parties:FOLDER": Entry("edgekit.data.vertical:read_folder", "tables of parties, and the labels"),
        "labels:FOLDER": Entry("edgekit.data.vertical:read_folder", "the labels alone, for `edgekit serve`"),
    },
    "edgekit.data",
)
ALGORITHMS = Registry(
    "federation.algorithm",
    {
        name: Entry(f"edgekit.algorithms.{name.replace('-', '_')}:{made}", summary, source)
        for name, made, summary, source in (
            ("fedavg", "FedAvg", "the mean of the clients' weights", "McMahan et al. 2017"),
            ("fedprox", "FedProx", "clients are pulled towards the global model", "Li et al. 2020"),
            ("scaffold", "Scaffold", "control variates take the clients' drift out", "Karimireddy et al. 2020"),
            ("fednova", "FedNova", "clients with unequal numbers of steps count by direction", "Wang et al. 2020"),
            ("feddyn", "FedDyn", "a regulariser that moves along takes the clients' drift out", "Acar et al. 2021"),
            (
                "ring",
                "Ring",
                "ring all-reduce: segments travel from member to member",
                "Patarasuk & Yuan 2009",
            ),
            ("perfedavg", "PerFedAvg", "a model from which one step makes each client's own", "Fallah et al. 2020"),
            ("gossip", "Gossip", "models are averaged in pairs, drawn anew each round", "Lian et al. 2017"),
            ("feddf", "FedDF", "the mean model learns what all models answer on public examples", "Lin et al. 2020"),
            ("fedmd", "FedMD", "clients share answers instead of weights, each its own network", "Li & Wang 2019"),
            ("fedbuff", "FedBuff", "asynchronous: a step whenever a buffer of updates is full", "Nguyen et al. 2022"),
            ("personal", "Personal", "some layers stay with their client", "Arivazhagan et al. 2019"),
            ("fedbn", "FedBN", "norms stay with their client", "Li et al. 2021, FedBN"),
            (
                "ditto",
                "Ditto",
                "each client trains a model of its own too, pulled to the global one",
                "Li et al. 2021",
            ),
            (
                "ifca",
                "IFCA",
                "a model a cluster of clients, who join the best for them",
                "Ghosh et al. 2020",
            ),
            ("qfedavg", "QFedAvg", "clients with larger losses count more", "Li et al. 2020, q-FedAvg"),
            ("norm-bounding", "NormBounding", "no client moves the mean by more than a bound", "Sun et al. 2019"),
            ("rfa", "RFA", "the geometric median of the clients' weights", "Pillutla et al. 2022"),
            (
                "centred-clipping",
                "CentredClipping",
                "changes, clipped around the last mean",
                "Karimireddy et al. 2021",
            ),
            ("fltrust", "FLTrust", "clients count by how they agree with the server's own step", "Cao et al. 2021"),
            ("heterofl", "HeteroFL", "clients train as wide a network as their device bears", "Diao et al. 2021"),
            ("supernet", "Supernet", "many networks that share their weights, for a search", "Cai et al. 2020"),
            ("fjord", "FjORD", "likewise, each step at a width that it draws", "Horvath et al. 2021"),
        )
    },
    "edgekit.algorithms",
)
STRATEGIES = Registry(
    "federation.strategy",
    {
        name: Entry(f"flwr.serverapp.strategy:{name}", summary, source)
        for name, summary, source in (
            ("Bulyan", "Krum's choice, then a trimmed mean", "El Mhamdi et al. 2018"),
            ("FedAdagrad", "Adagrad at the server", "Reddi et al. 2021"),
            ("FedAdam", "Adam at the server", "Reddi et al. 2021"),
            ("FedAvg", "the mean of the clients' weights", "McMahan et al. 2017"),
            ("FedAvgM", "momentum at the server", "Hsu et al. 2019"),
            ("FedMedian", "the median of each weight", "Yin et al. 2018"),
            ("FedProx", "clients are pulled towards the global model", "Li et al. 2020"),
            ("FedTrimmedAvg", "the mean without the extremes of each weight", "Yin et al. 2018"),
            ("FedYogi", "Yogi at the server", "Reddi et al. 2021"),
            ("Krum", "the update that is nearest to its neighbours", "Blanchard et al. 2017"),
            ("MultiKrum", "the mean of several that Krum chooses", "Blanchard et al. 2017"),
            ("QFedAvg", "clients with larger losses count more", "Li et al. 2020, q-FedAvg"),
        )
    },
    "edgekit.strategies",
)

SELECTORS = Registry(
    "federation.selector",
    {
        "uniform": Entry("edgekit.server.loop.selection:Uniform", "so many clients a round, drawn at random"),
        "round-robin": Entry("edgekit.server.loop.selection:RoundRobin", "one after the other: nobody is left waiting"),
        "poisson": Entry(
            "edgekit.server.loop.selection:Poisson",
            "each client joins with the same chance: what amplification by subsampling needs",
            "Abadi et al. 2016",
        ),
        "fair": Entry("edgekit.server.loop.selectors.fair:Fair", "those who took part least often"),
        "power-of-choice": Entry(
            "edgekit.server.loop.selectors.power_of_choice:PowerOfChoice",
            "of some drawn at random, those with the highest training loss",
            "Cho et al. 2022",
        ),
        "battery-aware": Entry(
            "edgekit.server.loop.selectors.battery_aware:BatteryAware",
            "devices that can afford a round, on networks that cost nothing, mostly the quicker ones",
        ),
        "oort": Entry(
            "edgekit.server.loop.selectors.oort:Oort",
            "clients that are useful and quick: high loss, short rounds",
            "Lai et al. 2021",
        ),
    },
    "edgekit.selectors",
)
OBJECTIVES = Registry(
    "objective.name",
    {
        name: Entry(f"edgekit.objectives.{module}:{made}", summary, source)
        for name, module, made, summary, source in (
            ("cross-entropy", "cross_entropy", "CrossEntropy", "one class of several", "Szegedy et al. 2016"),
            ("multi-label", "multi_label", "MultiLabel", "several labels that may be there together", ""),
            ("regression", "regression", "Regression", "numbers, by squared or Huber's loss", "Huber 1964"),
            (
                "reconstruction",
                "reconstruction",
                "Reconstruction",
                "what is normal, by an autoencoder's errors",
                "Sakurada & Yairi 2014",
            ),
        )
    },
    "edgekit.objectives",
)
TRACKERS = Registry(
    "tracking",
    {
        "csv": Entry("edgekit.report.trackers.csv:Csv", "a table of the rounds, RUN/tracking/rounds.csv"),
        "tensorboard": Entry("edgekit.report.trackers.tensorboard:TensorBoard", "tensorboard --logdir runs"),
        "mlflow": Entry("edgekit.report.trackers.mlflow:MLflow", "mlruns beside the runs, or MLFLOW_TRACKING_URI"),
        "wandb": Entry("edgekit.report.trackers.wandb:WandB", "Weights & Biases; offline unless WANDB_MODE says else"),
    },
    "edgekit.trackers",
)
TRANSFORMS = Registry(
    "federation.transforms",
    {
        "top-k": Entry("edgekit.transforms.top_k:TopK", "the largest changes alone are sent", "Stich et al. 2018"),
        "random-k": Entry("edgekit.transforms.random_k:RandomK", "changes drawn by lot are sent", "Stich et al. 2018"),
        "quantise": Entry(
            "edgekit.transforms.quantise:Quantise", "changes in 8 or 4 bits, rounded at random", "Alistarh et al. 2017"
        ),
        "sign": Entry("edgekit.transforms.sign:Sign", "signs of changes, one bit each", "Karimireddy et al. 2019"),
    },
    "edgekit.transforms",
)
PRESETS = Registry(
    "export.presets",
    {
        name: Entry(f"edgekit.export.quantise:{made}", summary)
        for name, made, summary in (
            ("float32", "FLOAT32", "32-bit floats: what training gave"),
            ("float16", "FLOAT16", "16-bit weights, computed in 32 bits: half the size"),
            (
                "int8-weights",
                "INT8_WEIGHTS",
                "8-bit weights, computed in 32 bits: a quarter of the size, no calibration",
            ),
            (
                "int8-dynamic",
                "INT8_DYNAMIC",
                "8-bit weights, activations quantised as they come: small and fast, no calibration",
            ),
            (
                "int8-mixed",
                "INT8_MIXED",
                "int8, with layers in float32 whose integers cost the scores too much",
            ),
            ("int16", "INT16", "8-bit weights and 16-bit activations: nearer to float32 than int8, and slower"),
            (
                "int8",
                "INT8",
                "8-bit weights and activations in convolutions and fully connected layers, float elsewhere",
            ),
            (
                "int4",
                "INT4",
                "int8 with 4-bit weights but in depthwise convolutions, for networks trained to round; ai-edge-litert "
                "alone",
            ),
            (
                "int8-full",
                "INT8_FULL",
                "8-bit integers throughout, input and output too: for chips without floating point",
            ),
        )
    },
    "edgekit.presets",
)
OF_PRIVACY = "DifferentialPrivacy"
"""Beginning of Flower's strategies that stand for a mechanism: privacy has a section of its own."""


def check_names(names: Mapping[str, str], transforms: Iterable[str] = (), trackers: Iterable[str] = ()) -> None:
    """See that what an experiment names is known and may be run here, without importing it.

    Args:
        names: by key, such as `model.name`; "" is nothing.
        transforms: of `federation.transforms`.
        trackers: of `tracking`.

    Raises:
        ExperimentError: one is not known.
        UsageError: one is code that nobody has trusted here.
    """
    for registry in (MODELS, SOURCES, ALGORITHMS, STRATEGIES, SELECTORS, OBJECTIVES):
        if name := names.get(registry.key):
            plugins.check(registry.entry(name).path, registry.key)
    for registry, chosen in ((TRANSFORMS, transforms), (TRACKERS, trackers)):
        for name in chosen:
            plugins.check(registry.entry(name).path, registry.key)
