"""What networks of sequences share: frames over time, padding, tokens, a readout of the mean, a frame at a time."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgekit.errors import DataError, ModelError

States = tuple[Tensor, ...]
"""What a network keeps from frame to frame, each (batch, ...); zeros before the first."""


class Frames(nn.Module):
    """From examples to frames, and which of them are real.

    Sequences of unequal length are padded at their ends. The first feature of a frame is then 1 where it is real and 0
    where it is padding (`masked`); of tokens, whole numbers, 0 is padding.

    Args:
        shape: (channels, features, time), as log-mel pictures are: each column is a frame; (features, time); or
            (time,), of tokens.
        name: of the network.
        masked: whether the first feature tells padding.
        vocabulary: how many tokens there are, padding among them; 0 where frames hold numbers.
        token: numbers that a token becomes.

    Raises:
        ModelError: the examples are no sequences.
    """

    def __init__(self, shape: Sequence[int], name: str, *, masked: bool, vocabulary: int, token: int = 32) -> None:
        super().__init__()
        if vocabulary:
            if len(shape) != 1 or vocabulary < 2 or masked:
                raise ModelError(
                    f"{name} with a vocabulary needs examples of (time,), whole numbers of which 0 is padding, not "
                    f"{tuple(shape)}, two tokens at least, and no `masked`"
                )
            self.given = 1
        elif len(shape) not in (2, 3):
            raise ModelError(
                f"{name} needs sequences, (features, time) or (channels, features, time), not {tuple(shape)}: use mlp, "
                f"or give {name} the vocabulary of tokens"
            )
        else:
            self.given = shape[0] if len(shape) == 2 else shape[0] * shape[1]
        self.time, self.masked, self.vocabulary = shape[-1], masked, vocabulary
        self.words = nn.Embedding(vocabulary, token) if vocabulary else None
        self.features = token if vocabulary else self.given

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Map (batch, ..., time) to frames (batch, time, features), and 1 or 0 for each, (batch, time, 1), or None."""
        if self.words is not None:
            return self.words(x.long()), x.clamp(0.0, 1.0)[..., None]
        x = x.flatten(1, -2).transpose(1, 2)
        return x, x[..., :1].clamp(0.0, 1.0) if self.masked else None


def vocabulary_of(model: nn.Module) -> int:
    """Return how many tokens a network knows; 0 where its examples are numbers."""
    return model.frames.vocabulary if isinstance(model, SequenceNetwork) else 0


class SequenceNetwork(nn.Module):
    """Frames, something causal over time, and a readout of what it gives the frames on average.

    A subclass gives `over_time`, and for a frame at a time `kept` and `advance`.

    Args:
        frames: of the examples.
        dim: numbers that `over_time` gives a frame.
        classes: scores to give.
    """

    def __init__(self, frames: Frames, dim: int, classes: int) -> None:
        super().__init__()
        self.frames, self.dim, self.readout = frames, dim, nn.Linear(dim, classes)

    def over_time(self, frames: Tensor) -> Tensor:
        """Map frames (batch, time, features) to (batch, time, dim); a frame sees what was, and nothing later."""
        raise NotImplementedError

    def kept(self) -> list[tuple[int, ...]]:
        """Return the shapes of what `advance` keeps of one example."""
        raise NotImplementedError

    def advance(self, frame: Tensor, states: States) -> tuple[Tensor, States]:
        """Map the next frame (batch, features) and what was kept to (batch, dim) and what is kept now."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, ..., time) to scores (batch, classes)."""
        frames, real = self.frames(x)
        h = self.over_time(frames)
        mean = h.mean(1) if real is None else (h * real).sum(1) / real.sum(1).clamp(min=1.0)
        scores: Tensor = self.readout(mean)
        return scores

    def states(self) -> list[tuple[int, ...]]:
        """Return the shapes of all that `step` keeps of one example: the sum over frames, their number, and the rest.

        Raises:
            ModelError: the network has no streaming form.
        """
        return [(self.dim,), (1,), *self.kept()]

    def step(self, frame: Tensor, states: States) -> tuple[Tensor, States]:
        """Take the next frame of sequences; after the last, the scores are those of the whole.

        Args:
            frame: (batch, numbers of a frame), of tokens (batch, 1).
            states: what the last step gave; zeros before the first frame.

        Returns:
            Scores for what was seen so far, (batch, classes), and the states.
        """
        total, count, *rest = states
        frames, real = self.frames(frame if self.frames.vocabulary else frame[..., None])
        h, kept = self.advance(frames[:, 0], tuple(rest))
        one = torch.ones_like(count) if real is None else real[:, 0]
        total, count = total + h * one, count + one
        scores: Tensor = self.readout(total / count.clamp(min=1.0))
        return scores, (total, count, *kept)

    def check_examples(self, x: Tensor, where: str) -> None:
        """See that examples are what the network reads.

        Raises:
            DataError: a token is none of the vocabulary, or no frame of an example is real.
        """
        many = self.frames.vocabulary
        if many and bool(((x != x.round()) | (x < 0)).any()):
            raise DataError(
                f"{where}: tokens must be whole numbers from 0 to {many - 1}; bytes are read as images, from 0 to 1: "
                "store tokens as int64"
            )
        if many and bool((x >= many).any()):
            raise DataError(
                f"{where}: tokens must be whole numbers from 0 to {many - 1}; there is {int(x.max())}: give a "
                f"vocabulary of {int(x.max()) + 1}"
            )
        if self.frames.masked:
            first = x.reshape(len(x), -1, x.shape[-1])[:, 0]
            if bool(((first != 0) & (first != 1)).any()):
                raise DataError(
                    f"{where}: with `masked` the first feature of a frame must be 1, or 0 for padding; `length` beside "
                    "x makes it so"
                )
            if not bool(first.any(1).all()):
                raise DataError(f"{where}: an example is padding alone")

    def looks_masked(self, x: Tensor) -> bool:
        """Whether examples have a first feature that tells padding, which this network does not leave out."""
        if self.frames.masked or self.frames.vocabulary:
            return False
        first = x.reshape(len(x), -1, x.shape[-1])[:, 0]
        return bool(((first == 0) | (first == 1)).all() and (first[:, 0] == 1).all() and (first == 0).any())


class Layer(nn.Module):
    """A layer over time that can also take a frame at a time: (batch, time, dim) to the same shape."""

    def kept(self) -> list[tuple[int, ...]]:
        """Return the shapes of what `advance` keeps of one example."""
        raise NotImplementedError

    def advance(self, frame: Tensor, states: States) -> tuple[Tensor, States]:
        """Map the next frame (batch, dim) and what was kept to (batch, dim) and what is kept now."""
        raise NotImplementedError


class Residuals(SequenceNetwork):
    """Frames to `dim` numbers, and residual layers over time behind layer norms.

    Args:
        frames: of the examples.
        layers: over time.
        dim: numbers that a layer gives a frame.
        classes: scores to give.
    """

    def __init__(self, frames: Frames, layers: Sequence[Layer], dim: int, classes: int) -> None:
        super().__init__(frames, dim, classes)
        self.into = nn.Linear(frames.features, dim)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in layers)
        self.layers = nn.ModuleList(layers)

    def over_time(self, frames: Tensor) -> Tensor:
        """Map frames (batch, time, features) to (batch, time, dim)."""
        x: Tensor = self.into(frames)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = x + layer(norm(x))
        return x

    def kept(self) -> list[tuple[int, ...]]:
        """Return what the layers keep, in their order."""
        return [shape for layer in self.layers for shape in layer.kept()]  # type: ignore[operator]

    def advance(self, frame: Tensor, states: States) -> tuple[Tensor, States]:
        """Map the next frame (batch, features) and what the layers kept to (batch, dim) and what they keep now."""
        x: Tensor = self.into(frame)
        now: list[Tensor] = []
        for norm, layer in zip(self.norms, self.layers, strict=True):
            many = len(layer.kept())  # type: ignore[operator]
            y, kept = layer.advance(norm(x), states[len(now) : len(now) + many])  # type: ignore[operator]
            x = x + y
            now += kept
        return x, tuple(now)
