"""A batch in one forward pass whose examples never meet, and each one's gradients by layer.

All examples of a clipped sum share one set of weights, so none needs a copy of them: one forward, one backward for the
gradients of the layers' outputs, and each layer's own gradients by example from its input and those (Goodfellow 2015;
Li et al. 2022, section 4; of convolutions Bu et al. 2022). Gradients are written out where several places of an example
add up, since products of Gram matrices cancel; a product of two vectors stays one (`Outer`).

Examples cannot meet by construction: of functions on examples only those run that are known to leave them apart
(`apart`), and any other runs on each example alone, under `torch.vmap`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from edgekit.clients.clipped.apart import APART, FACTS
from edgekit.clients.clipped.gradients import Each, added, written_out
from edgekit.clients.clipped.layers import RULES
from edgekit.clients.cohort.rules import ClientsInChannels


class MeetError(Exception):
    """A network does with examples what cannot be kept apart here."""


Rule = Callable[[Tensor], Sequence[Each | None]]
"""Gives the gradients of what a function learnt with, of the gradient of its output."""


class Rows(TorchFunctionMode):
    """While entered, a network's functions leave the examples of a batch apart, and what they learn with is noted.

    Args:
        x: the batch, (examples, ...).
    """

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.examples = len(x)
        self._seen: dict[int, Tensor] = {id(x): x}
        self._anchor = torch.zeros((), dtype=torch.float32, requires_grad=True)
        self._noted: list[tuple[Tensor | None, Sequence[Tensor], Rule]] = []
        self._inputs: list[tuple[Tensor, int]] = []
        """Of layers, and how often each was changed in place by then."""
        self._copies: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, Tensor)]
        if not any(id(one) in self._seen for one in tensors) or func in FACTS:
            return func(*args, **kwargs)
        if kwargs.get("out") is not None:
            raise MeetError("a function writes what it makes of examples into what was there before")
        learnt = [one for one in tensors if id(one) not in self._seen and one.requires_grad]
        if learnt:
            rule = RULES.get(func)
            found = None if rule is None else rule(self, *args, **kwargs)
            return self._taken(self._alone(func, args, kwargs) if found is None else found)
        known = APART.get(func)
        if known is not None and known(self, *args, **kwargs):
            return self._taken(func(*args, **kwargs))
        return self._taken(self._alone(func, args, kwargs))

    def is_data(self, one: object) -> bool:
        """Whether something is a tensor of the examples."""
        return isinstance(one, Tensor) and id(one) in self._seen

    def note(self, output: Tensor, learnt: Sequence[Tensor], rule: Rule, inputs: Tensor) -> Tensor:
        """Remember what gives the gradients of what a function learnt with; return its output.

        Args:
            output: of the function.
            learnt: what it learns with.
            rule: gives the gradients.
            inputs: of the function, which the rule needs as they are now.
        """
        self._inputs.append((inputs, inputs._version))
        if not output.requires_grad:  # the first layer: the graph begins here
            output = output + self._anchor.to(output.dtype)
        place = len(self._noted)
        self._noted.append((None, learnt, rule))

        def keep(gradient: Tensor) -> None:
            self._noted[place] = (gradient, learnt, rule)

        output.register_hook(keep)  # before anything changes it in place
        return output

    def gradients(self, loss: Tensor, parameters: Sequence[Tensor]) -> list[Each | None]:
        """Return each parameter's gradients by example, None of those that the loss does not depend on.

        Args:
            loss: the sum of the examples'.
            parameters: leaves.

        Raises:
            MeetError: a parameter was used in a way that is not known.
        """
        if any(one._version != version for one, version in self._inputs):
            raise MeetError("what a layer was given is changed in place after it")
        copies = [copy for _, copy in self._copies]
        if loss.requires_grad:
            wanted = [self._anchor, *copies]
            given = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)[1:]
        else:
            given = tuple(map(torch.zeros_like, copies))
        found: dict[int, list[Each]] = {id(one): [] for one in parameters}
        derived: dict[int, tuple[Tensor, Tensor]] = {}
        parts: list[tuple[Tensor, Each]] = [(u, one) for (u, _), one in zip(self._copies, given, strict=True)]
        for gradient, learnt, rule in self._noted:
            if gradient is not None:
                parts += [(u, one) for u, one in zip(learnt, rule(gradient), strict=True) if one is not None]
        for used, each in parts:
            if id(used) in found:
                found[id(used)].append(each)
            elif used.requires_grad:
                whole = written_out(each)
                before = derived.get(id(used))
                derived[id(used)] = used, whole if before is None else before[1] + whole
        if derived:
            outputs, own = [one for one, _ in derived.values()], [one for _, one in derived.values()]
            through = torch.autograd.grad(outputs, list(parameters), own, is_grads_batched=True, allow_unused=True)
            for parameter, each in zip(parameters, through, strict=True):
                if each is not None:
                    found[id(parameter)].append(each)
        return [added(found[id(one)]) for one in parameters]

    def _alone(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a function on each example by itself, and with a copy of what it learns with."""
        name = getattr(func, "__name__", "")
        if name.endswith("_") and not name.endswith("__"):
            raise MeetError(f"{name} changes examples in place")
        leaves, form = tree_flatten((args, kwargs))
        batched: list[Tensor] = []
        places: list[int] = []
        for place, one in enumerate(leaves):
            if self.is_data(one):
                batched.append(one[:, None])
                places.append(place)
            elif isinstance(one, Tensor) and one.requires_grad:
                copy = one.detach().expand(self.examples, *one.shape).clone().requires_grad_()
                self._copies.append((one, copy))
                batched.append(copy)
                places.append(place)

        def run(*own: Tensor) -> Any:
            given = list(leaves)
            for place, one in zip(places, own, strict=True):
                given[place] = one
            inner_args, inner_kwargs = tree_unflatten(given, form)
            with ClientsInChannels():  # torch's own rules are wrong for some, as for rows that only pad
                return func(*inner_args, **inner_kwargs)

        found = torch.vmap(run)(*batched)
        return tree_map(lambda one: one.flatten(0, 1) if isinstance(one, Tensor) else one, found)

    def _taken(self, found: Any) -> Any:
        for one in tree_flatten(found)[0]:
            if not isinstance(one, Tensor):
                raise MeetError(f"a function gives {type(one).__name__} of examples")
            if one.dim() == 0 or len(one) != self.examples:
                raise MeetError(f"a function gives {tuple(one.shape)} of {self.examples} examples")
            self._seen[id(one)] = one
        return found
