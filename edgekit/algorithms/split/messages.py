"""What device and server say to each other in a step; each message of the device has one answer.

With the labels at the server: `Forward` and `Gradient`. With the labels at the device (U-shaped): `Forward` and
`Output`, then `Backward` and `Gradient`.
"""

from dataclasses import dataclass

from edgekit.data.federated import Floats, Integers


@dataclass(frozen=True)
class Forward:
    """What the device's first part makes of a batch.

    Attributes:
        step: number, from 1.
        activation: (examples, ...).
        labels: (examples,), where the server has them; else None.
    """

    step: int
    activation: Floats
    labels: Integers | None


@dataclass(frozen=True)
class Backward:
    """The gradient of the loss with respect to an `Output`; the loss is the mean over the batch."""

    step: int
    gradient: Floats


@dataclass(frozen=True)
class Output:
    """What the server's part makes of an activation."""

    step: int
    activation: Floats


@dataclass(frozen=True)
class Gradient:
    """The gradient of the loss with respect to a `Forward`'s activation.

    Attributes:
        step: number.
        gradient: (examples, ...).
        loss: mean over the batch, where the server knows it; else None.
    """

    step: int
    gradient: Floats
    loss: float | None


Asked = Forward | Backward
Answer = Output | Gradient
