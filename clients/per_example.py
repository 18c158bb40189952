"""Clipped sums of single examples' gradients with torch, whatever the layers are, in the fastest of three ways.

All examples in one pass (`clipped`), in vectorised steps by torch.func with each example alone, or one after the other.
The first is for networks of known layers alone, and is tried in double precision against one after the other; which of
the others is found out on real examples. Nothing mixes examples in any of them, by construction.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from edgekit.clients.clipped.known import is_known
from edgekit.clients.clipped.sums import ClippedSums
from edgekit.clients.cohort.vectorised import Vectorised, gradients_of
from edgekit.clients.draws import Draws, Makes, generator_of, of_examples, once, part_of
from edgekit.errors import TrainingError
from edgekit.models.requirements import attributes, changed, untrained
from edgekit.objectives import objective_of
from edgekit.privacy.tensors import clipped

PROBED = 4
"""Examples that the ways are tried on."""
TRIED_SIZES = (1, 5, 12)
"""Examples on which one pass is tried."""
EXACT = 1e-9
"""Largest difference in double precision, relative to the largest sum."""


class PerExample:
    """Takes clipped sums of a network's gradients.

    Args:
        model: the network; it is copied.
        on_notice: called with a line for people, once, if examples are run one after the other.
    """

    def __init__(self, model: nn.Module, on_notice: Callable[[str], None] = lambda line: None) -> None:
        self._model, self._on_notice = model, on_notice
        self._vectorised, self._passes = Vectorised(model), ClippedSums(model)
        self._tried = self._alone = self._afresh = self._at_once = False
        self._constants = {n: torch.nan_to_num(b).clone() for n, b in untrained(self._vectorised.model).items()}
        self._attributes, self._passed = attributes(self._vectorised.model), attributes(self._passes.model)

    def clipped_sum(
        self, weights: Mapping[str, Tensor], x: Tensor, y: Tensor, clip: float, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Return the sum of the examples' gradients, each clipped to l2 norm `clip`.

        Args:
            weights: of the trained parameters, by name.
            x: examples, (examples, ...); there may be none.
            y: their labels.
            clip: largest norm.
            generator: the client's, for layers that draw.

        Raises:
            TrainingError: the network fails on an example, or keeps something of it.
        """
        if len(y) == 0:
            return {name: torch.zeros_like(weights[name]) for name in self._vectorised.names}
        self.choose(weights, x, y, clip)
        if self._at_once:
            own, owners = [weights[name] for name in self._passes.names], torch.zeros(len(y), dtype=torch.int64)
            try:
                found = [total[0] for total in self._passes.sums(own, owners, 1, x, y, clip)]
            except Exception as error:
                reason = " ".join(str(error).split())[:200] or type(error).__name__
                raise TrainingError(f"the network cannot be run on these examples: {reason}") from error
            if name := kept_by(self._passes.model, self._constants, self._passed):
                raise TrainingError(f"{name!r} keeps something of the examples, which no noise covers")
            return dict(zip(self._passes.names, found, strict=True))
        take = self._one_by_one if self._alone else self._together
        each = once(partial(of_examples, [generator], [len(y)]))
        sums = take(weights, x, y, clip, each)
        if name := self._kept():
            raise TrainingError(f"{name!r} keeps something of the examples, which no noise covers")
        return dict(zip(self._vectorised.names, sums, strict=True))

    def choose(self, weights: Mapping[str, Tensor], x: Tensor, y: Tensor, clip: float) -> None:
        """Find out, the first time, whether examples can be run together; nothing is kept of them.

        Raises:
            TrainingError: the network fails on an example.
        """
        if self._tried or len(y) == 0:
            return
        if fits_at_once(self._model, x.shape[1:]):
            self._tried = self._at_once = True
            return
        x, y = x[:PROBED], y[:PROBED]
        pristine = copy.deepcopy(self._vectorised.model)
        self._one_by_one(weights, x, y, clip, _seeded(len(y)))
        self._afresh = bool(kept := self._kept())  # then each example gets a copy of its own
        self._vectorised.model = copy.deepcopy(pristine)
        right = self._one_by_one(weights, x, y, clip, _seeded(len(y)))
        try:
            found = self._together(weights, x, y, clip, _seeded(len(y)))
            reason = "" if _close(found, right) else "their vectorised sum differs"
        except Exception as error:  # torch.func and user modules raise many kinds
            reason = f"torch.func cannot vectorise them: {' '.join(str(error).split())[:120] or type(error).__name__}"
        if kept:
            reason = f"the network keeps {kept!r} from one to the next"
        self._vectorised.model, self._attributes = pristine, attributes(pristine)
        self._tried, self._alone = True, bool(reason)
        if reason:
            self._on_notice(f"single examples are run one after the other, correct and slower ({reason})")

    def _kept(self) -> str:
        return kept_by(self._vectorised.model, self._constants, self._attributes)

    def _together(
        self,
        weights: Mapping[str, Tensor],
        x: Tensor,
        y: Tensor,
        clip: float,
        generators: Makes,
    ) -> list[Tensor]:
        stacked = [weights[name].detach()[None] for name in self._vectorised.names]
        owners = torch.zeros(len(y), dtype=torch.int64)
        return [total[0] for total in self._vectorised.clipped_sums(stacked, owners, x, y, clip, generators)]

    def _one_by_one(
        self,
        weights: Mapping[str, Tensor],
        x: Tensor,
        y: Tensor,
        clip: float,
        generators: Makes,
    ) -> list[Tensor]:
        names, objective = self._vectorised.names, objective_of(self._vectorised.model)
        sums = [torch.zeros_like(weights[name]) for name in names]
        for i in range(len(y)):
            own = [weights[name].detach().clone().requires_grad_() for name in names]
            model = copy.deepcopy(self._vectorised.model) if self._afresh else self._vectorised.model
            try:
                with Draws(partial(part_of, generators, slice(i, i + 1))):
                    scores = functional_call(model, dict(zip(names, own, strict=True)), (x[i : i + 1].clone(),))
            except Exception as error:  # a user's forward may do anything
                reason = " ".join(str(error).split())[:200] or type(error).__name__
                raise TrainingError(f"the network cannot be run on one example alone: {reason}") from error
            loss = objective.each(scores, y[i : i + 1], x[i : i + 1]).sum()
            gradients = gradients_of(loss, own)
            with torch.no_grad():
                for total, scaled in zip(sums, clipped([one[None] for one in gradients], clip), strict=True):
                    total += scaled[0]
        return sums


def kept_by(model: nn.Module, constants: Mapping[str, Tensor], before: dict[str, Any]) -> str:
    """Return the name of something that a network's forward passes changed, "" if they changed nothing.

    Args:
        model: the network.
        constants: what is not trained, as it was.
        before: its attributes, as they were.
    """
    for name, tensor in untrained(model).items():
        if not torch.equal(torch.nan_to_num(tensor), constants[name]):
            return name
    return changed(before, attributes(model))


def fits_at_once(model: nn.Module, shape: Sequence[int]) -> bool:
    """Whether all examples can be run in one pass: it is tried on random ones, in double precision, where kinks are no
    matter. No data has a say in it, so that a run which goes on takes the same way.

    Args:
        model: the network, with weights of some sort; it is not changed. What was found of it is remembered.
        shape: of one example.
    """
    if not is_known(model):
        return False
    found = _FITTING.setdefault(model, {})
    if tuple(shape) not in found:
        found[tuple(shape)] = _is_exact(model, shape)
    return found[tuple(shape)]


_FITTING: "WeakKeyDictionary[nn.Module, dict[tuple[int, ...], bool]]" = WeakKeyDictionary()


def _is_exact(model: nn.Module, shape: Sequence[int]) -> bool:
    twice, drawn = copy.deepcopy(model).double(), torch.Generator().manual_seed(0)
    own = {name: p.detach() for name, p in twice.named_parameters() if p.requires_grad}
    try:
        passes, objective = ClippedSums(twice), objective_of(model)
        for examples in TRIED_SIZES:
            x = torch.rand(examples, *shape, generator=drawn, dtype=torch.float64)
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                outputs = copy.deepcopy(twice).eval()(x).shape[-1]
            y = torch.from_numpy(objective.drawn(examples, outputs, np.random.default_rng(examples)))
            owners = torch.zeros(examples, dtype=torch.int64)
            found = passes.sums([own[name] for name in passes.names], owners, 1, x, y, 1.0)
            right = PerExample(twice)._one_by_one(own, x, y, 1.0, _seeded(examples))
            scale = max((float(one.abs().max()) for one in right if one.numel()), default=0.0)
            pairs = zip(found, right, strict=True)
            if not 0 < scale < math.inf or not all(
                bool(((one[0] - other).abs() <= EXACT * scale).all()) for one, other in pairs
            ):
                return False
    except Exception:  # torch raises many kinds; such networks are run otherwise
        return False
    return True


def _seeded(examples: int) -> Makes:
    return once(lambda: [generator_of(seed) for seed in range(examples)])


def _close(found: Sequence[Tensor], right: Sequence[Tensor]) -> bool:
    scale = max((float(one.abs().max()) for one in right if one.numel()), default=0.0)
    pairs = zip(found, right, strict=True)
    return all(bool(((one - other).abs() <= 1e-3 * other.abs() + 1e-4 * scale).all()) for one, other in pairs)
