"""From the experiment's [model] section to a torch module."""

import copy
import inspect
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import get_type_hints

import torch
from torch import nn

from edgekit import plugins
from edgekit.data.federated import Floats
from edgekit.errors import EdgekitError, ExperimentError, ModelError
from edgekit.models.adapters import adapt
from edgekit.models.freezing import train_only
from edgekit.models.lsuv import unit_variance
from edgekit.models.qcfs import fit_thresholds, use_qcfs
from edgekit.models.sequence import SequenceNetwork
from edgekit.models.settings import Model
from edgekit.models.weights_file import take
from edgekit.objectives import Objective, objective_of
from edgekit.objectives.cross_entropy import PLAIN
from edgekit.registry import MODELS


def build(
    settings: Model,
    shape: tuple[int, ...],
    classes: int,
    seed: int,
    calibration: Floats | None = None,
    on_notice: Callable[[str], None] = lambda line: None,
    objective: Objective = PLAIN,
) -> nn.Module:
    """Build the network with weights drawn from the seed, and see that it maps examples to what its objective takes.

    Args:
        settings: the experiment's [model] section.
        shape: one example's shape, (channels, height, width) or (features,).
        classes: how many scores the network must give.
        seed: the same seed gives the same weights.
        calibration: the server's own examples, (examples, ...); networks of the zoo without activation norms are
            scaled to unit variance on them (`lsuv`). Without them, or with a weights file, they keep their scale.
        on_notice: called with lines for people, on what a weights file holds.
        objective: what it is trained for; the network keeps it.

    Raises:
        ExperimentError: no such model, or arguments it does not take.
        ModelError: it cannot be built, or its output is not (batch, classes), or what else the objective takes.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _construct(settings, shape, classes)
    if not isinstance(model, nn.Module):
        raise ModelError(f"model.name {settings.name!r} gave {type(model).__name__}, not a torch.nn.Module")
    try:
        with torch.no_grad():
            scores = model.eval()(torch.zeros(2, *shape))
    except Exception as error:
        raise ModelError(f"{settings.name} cannot take examples of shape {shape}: {_one_line(error)}") from error
    expected = (2, *objective.outputs(classes, shape))
    if not isinstance(scores, torch.Tensor) or scores.shape != expected:
        found = tuple(scores.shape) if isinstance(scores, torch.Tensor) else type(scores).__name__
        what = "scores" if objective.of_classes else f"what the objective {objective.name} takes,"
        raise ModelError(f"{settings.name} gives {found} for two examples; it must give {what} of shape {expected}")
    model.objective = objective  # type: ignore[assignment]
    model.section = settings, tuple(shape), classes  # type: ignore[assignment]
    if objective.of_classes and _ends_in_softmax(model, shape):
        on_notice(
            f"{settings.name} seems to end in a softmax, which the loss takes itself: give the scores before it, or it "
            "learns slowly"
        )
    for name, parameter in model.named_parameters():
        if parameter.dtype != torch.float32:
            raise ModelError(f"parameter {name!r} is {parameter.dtype}; networks are trained in torch.float32")
    if settings.new and not settings.weights:
        raise ExperimentError("model.new is of a weights file: give model.weights, or leave it out")
    begin(model, settings, calibration)
    if settings.weights:
        for line in take(model, Path(settings.weights), settings.new):
            on_notice(line)
    if calibration is not None and isinstance(model, SequenceNetwork):
        model.check_examples(torch.from_numpy(calibration), "the calibration examples")
        if model.looks_masked(torch.from_numpy(calibration)):
            on_notice(
                "the first feature tells padding: model.arguments = {masked = true} leaves padding out of the mean"
            )
    if settings.adapters:
        adapt(model, settings.adapters, settings.adapter, settings.rank, seed)
    train_only(model, settings.only)
    objective.prepare(model)
    return model


def narrower(model: nn.Module, width: float) -> nn.Module:
    """Return a new network as `build` made one, of another width; its weights are drawn anew.

    Args:
        model: that `build` made.
        width: as a share of its own.

    Raises:
        ModelError: it was not made so, or cannot be built so narrow.
    """
    section: tuple[Model, tuple[int, ...], int] | None = getattr(model, "section", None)
    if section is None:
        raise ModelError(f"{type(model).__name__} cannot be built narrower: it is not of an experiment's [model]")
    settings, shape, classes = section
    if settings.adapters:
        raise ModelError("a network with adapters cannot be built narrower: leave model.adapters out")
    narrow = settings.model_copy(update={"width": settings.width * width, "weights": "", "new": [], "only": []})
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            made = _construct(narrow, shape, classes).eval()
            made(torch.zeros(2, *shape))
    except EdgekitError:
        raise
    except Exception as error:
        raise ModelError(f"{settings.name} cannot be built {width:g} as wide: {_one_line(error)}") from error
    made.objective, made.section = objective_of(model), section  # type: ignore[assignment]
    return made


def begin(model: nn.Module, settings: Model, calibration: Floats | None) -> None:
    """Give a new network its activations, and scale its weights by examples, where there are any.

    Args:
        model: the network; changed.
        settings: the experiment's [model] section.
        calibration: examples that cost no privacy, (examples, ...).
    """
    own_scale = settings.norm == "group" or settings.weights or getattr(model, "own_scale", False)
    if settings.name in MODELS and not own_scale and calibration is not None:
        unit_variance(model, torch.from_numpy(calibration))
    if settings.activation == "qcfs":
        use_qcfs(model, settings.levels)
        if calibration is not None:
            fit_thresholds(model, torch.from_numpy(calibration))


def _ends_in_softmax(model: nn.Module, shape: tuple[int, ...]) -> bool:
    """Whether scores are chances: never negative, and one in all, for whatever comes."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            scores = model(torch.rand(4, *shape))
        except Exception:  # it takes special values alone, and has shown what it gives for zeros
            return False
    return bool((scores >= 0).all() and torch.allclose(scores.sum(1), torch.ones(len(scores)), atol=1e-4))


def maker(found: object, what: str) -> Callable[..., nn.Module]:
    """Return what makes a network: a module's class, or a function that does. Nothing is called before this is known.

    Raises:
        ModelError: it is neither.
    """
    if isinstance(found, type) and issubclass(found, nn.Module):
        return found
    if isinstance(found, FunctionType) and (plugins.is_own_function(found) or _gives_module(found)):
        return found
    raise ModelError(
        f"{what} is {type(found).__name__} {getattr(found, '__name__', '')!r}, not a torch.nn.Module class, nor a "
        "function of yours (or one whose annotation says so) that gives one"
    )


def _gives_module(function: FunctionType) -> bool:
    try:
        given = get_type_hints(function).get("return")
    except Exception:  # annotations of anybody's
        return False
    return isinstance(given, type) and issubclass(given, nn.Module)


def _construct(settings: Model, shape: tuple[int, ...], classes: int) -> nn.Module:
    found = MODELS.load(settings.name)
    if isinstance(found, nn.Module) and settings.name.startswith(plugins.OBJECT):
        return copy.deepcopy(found)  # the program's own stays as it is
    made = found if settings.name in MODELS else maker(found, f"model.name {settings.name!r}")
    try:
        if settings.name not in MODELS:
            model: nn.Module = made(**{**_offered(made, settings, shape, classes), **settings.arguments})
            return model
        network: nn.Module = made(shape, classes, norm=settings.norm, width=settings.width, **settings.arguments)
        return network
    except EdgekitError:
        raise
    except TypeError as error:
        raise ExperimentError(f"model.arguments do not fit {settings.name}: {_one_line(error)}") from error
    except Exception as error:
        if "allocate memory" in str(error):
            raise ModelError(f"{settings.name} does not fit into memory: a smaller width, or fewer layers") from error
        raise ModelError(f"{settings.name} cannot be built: {_one_line(error)}") from error


def _offered(
    made: Callable[..., nn.Module], settings: Model, shape: tuple[int, ...], classes: int
) -> dict[str, object]:
    """Return what an own constructor asks for by the names that the zoo's have: shape, classes, norm, width.

    A parameter of such a name whose default is of another type means something else, and keeps its default.
    """
    offered = {"shape": shape, "classes": classes, "norm": settings.norm, "width": settings.width}
    try:
        asked = inspect.signature(made).parameters
    except (TypeError, ValueError):  # without a signature
        return {}
    free = inspect.Parameter.empty
    return {
        name: value
        for name, value in offered.items()
        if name in asked and (asked[name].default in (free, None) or type(asked[name].default) is type(value))
    }


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
