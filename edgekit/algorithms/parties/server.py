"""Split learning with several parties that hold different features of the same people; the coordinator has the labels.

Each party's network makes an embedding of an example; the coordinator joins them, trains the top, and sends each party
its gradient (Vepakomma et al. 2018, section 3, vertically partitioned data; Ceballos et al. 2020, section 3).
"""

import threading
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from edgekit.algorithms.split.codec import Codec
from edgekit.algorithms.split.line import travelled
from edgekit.algorithms.split.messages import Answer, Asked, Forward, Gradient
from edgekit.algorithms.split.part import Part, Passed
from edgekit.arrays import Weights
from edgekit.data.federated import Floats, Integers
from edgekit.errors import RefusedError, TrainingError
from edgekit.local_settings import LocalSettings
from edgekit.models.vertical import TopNetwork


class VerticalServer:
    """The coordinator's part: a step is made when all parties have sent their embeddings of its batch.

    Args:
        top: joins the embeddings.
        parties: how many.
        embedding: numbers that each makes of an example.
        window: batches of a party that may be under way at once.
    """

    def __init__(self, top: TopNetwork, parties: int, embedding: int, window: int) -> None:
        self._top, self._parties, self._embedding, self._window = top, parties, embedding, window
        self._part: Part | None = None
        self._labels: list[Integers] = []
        self._changed = threading.Condition()
        self._sent: dict[tuple[int, int], Floats] = {}
        self._last = [0] * parties
        self._gradients: dict[tuple[int, int], Gradient] = {}
        self._done = 0
        self._most = 0
        self._ended = True
        self.losses: list[float] = []

    def begin(self, weights: Weights, settings: LocalSettings, seed: int, labels: Sequence[Integers]) -> None:
        """A round begins.

        Args:
            weights: of the whole network.
            settings: the round's instructions; the top learns as the parties do.
            seed: of layers that draw.
            labels: of each step's batch.
        """
        with self._changed:
            s = settings
            self._part = Part(self._top, weights, s.learning_rate, s.momentum, s.proximal_mu, seed % 2**63)
            self._labels, self._most = list(labels), s.batch_size
            self._sent.clear()
            self._gradients.clear()
            self._last = [0] * self._parties
            self._done, self._ended, self.losses = 0, False, []

    def offer(self, party: int, message: Asked) -> None:
        """Take a party's embeddings; the step is made as soon as all are there.

        Raises:
            RefusedError: they do not fit the step, or its turn.
        """
        with self._changed:
            if self._ended:
                raise RefusedError("the round has ended")
            if not isinstance(message, Forward) or message.labels is not None:
                raise RefusedError("embeddings were expected, without labels")
            step = message.step
            if step != self._last[party] + 1 or step > len(self._labels):
                raise RefusedError(f"step {step} is not party {party}'s turn")
            if step > self._done + self._window:
                raise RefusedError(f"more than {self._window} batches are under way")
            shape = (len(self._labels[step - 1]), self._embedding)
            if message.activation.shape != shape:
                raise RefusedError(f"embeddings of step {step} have shape {shape}, not {message.activation.shape}")
            self._last[party] = step
            self._sent[party, step] = message.activation
            if min(self._last) >= step:
                self._make(step)
                self._changed.notify_all()

    def late(self) -> list[int]:
        """Return the parties that are furthest behind, in a round that is not done; they may be all."""
        with self._changed:
            least = min(self._last)
            return [party for party, last in enumerate(self._last) if last == least < len(self._labels)]

    def take(self, party: int, step: int) -> Gradient:
        """Return a party's gradient of a step that was made.

        Raises:
            TrainingError: another party's embeddings are missing.
        """
        with self._changed:
            if (party, step) not in self._gradients:
                raise TrainingError(f"step {step} waits for the embeddings of {self._missing(step)}")
            return self._gradients.pop((party, step))

    def answer(self, party: int, message: Asked) -> Answer:
        """Return a party's gradient, when all have sent their embeddings.

        Raises:
            RefusedError: they do not fit, or the round ends before.
        """
        self.offer(party, message)
        with self._changed:
            self._changed.wait_for(lambda: self._ended or (party, message.step) in self._gradients)
            if (party, message.step) not in self._gradients:
                raise RefusedError(
                    f"the round ended; step {message.step} lacks the embeddings of {self._missing(message.step)}"
                )
            return self._gradients.pop((party, message.step))

    def expects(self, party: int, step: int, *, backward: bool) -> tuple[tuple[int, ...], int]:
        """Return the shape of one example's embedding, and the most examples.

        Raises:
            RefusedError: a gradient comes, which no party has.
        """
        if backward:
            raise RefusedError("embeddings were expected, without labels")
        return (self._embedding,), self._most

    def forget(self, party: int) -> None:
        """Nothing of a party is kept behind its step."""

    def release(self) -> None:
        """End the round: who still waits for others is told so."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def weights(self) -> Weights:
        """Return the top's weights."""
        with self._changed:
            assert self._part is not None
            return self._part.weights()

    def _make(self, step: int) -> None:
        assert self._part is not None
        joined = np.concatenate([self._sent.pop((party, step)) for party in range(self._parties)], 1)
        passed = self._part.forward(torch.from_numpy(joined), wants_gradient=True)
        loss = F.cross_entropy(passed.y, torch.from_numpy(self._labels[step - 1]))
        gradient = self._part.backward(Passed(passed.x, loss, passed.parameters))
        assert gradient is not None
        self.losses.append(float(loss.detach()))
        for party, own in enumerate(torch.split(gradient, self._embedding, 1)):
            self._gradients[party, step] = Gradient(step, own.contiguous().numpy(), None)
        self._done = step

    def _missing(self, step: int) -> str:
        return ", ".join(f"party {party}" for party, last in enumerate(self._last) if last < step) or "nobody"


class MeetingLine:
    """A party's line to a server in the same process; embeddings wait there for the other parties'.

    Args:
        server: the coordinator's part.
        party: whose line this is.
        codec: how arrays would travel; what it loses is lost here too.

    Attributes:
        bytes_up: of the arrays that the party sent.
        bytes_down: of those it was sent.
    """

    def __init__(self, server: VerticalServer, party: int, codec: Codec) -> None:
        self._server, self._party, self._codec = server, party, codec
        self._received = 0
        self.bytes_up = self.bytes_down = 0

    def send(self, message: Asked) -> None:
        """Send a message."""
        sent, size = travelled(message, self._codec)
        self.bytes_up += size
        self._server.offer(self._party, sent)

    def receive(self) -> Answer:
        """Return the next answer; the other parties must have sent theirs."""
        self._received += 1
        answer, size = travelled(self._server.take(self._party, self._received), self._codec)
        self.bytes_down += size
        return answer
