"""How images come into a network: convolutions that halve them, or patches."""

from collections.abc import Sequence

from torch import nn

from edgekit.errors import ModelError
from edgekit.models.dscnn import image_shape
from edgekit.models.norm import Norm, convolution


def convolutions(
    norm: Norm, inputs: int, size: tuple[int, int], channels: Sequence[int], above: int = 7
) -> tuple[list[nn.Module], tuple[int, int]]:
    """Return 3 x 3 convolutions with ReLU that halve the map while it is larger than `above`, and the map's size then.

    Args:
        norm: normalisation of each.
        inputs: channels of the image.
        size: (height, width) of the image.
        channels: of each convolution.
        above: side of a map that is halved no more.
    """
    layers: list[nn.Module] = []
    for outputs in channels:
        stride = 2 if min(size) > above else 1
        size = -(-size[0] // stride), -(-size[1] // stride)
        layers += [*convolution(norm, inputs, outputs, 3, stride=stride), nn.ReLU()]
        inputs = outputs
    return layers, size


def patches(name: str, shape: Sequence[int], patch: int, dim: int) -> tuple[nn.Conv2d, int]:
    """Return what makes tokens of an image's patches, and how many there are.

    Args:
        name: of the network.
        shape: (channels, height, width).
        patch: side of a patch; 0 is 4 for images of 16 pixels and more, else 2.
        dim: numbers of a token.

    Raises:
        ModelError: the examples are no images, or smaller than a patch.
    """
    channels, height, width = image_shape(shape, name)
    patch = patch or (4 if min(height, width) > 15 else 2)
    if height < patch or width < patch:
        raise ModelError(f"{name} cuts patches of {patch} x {patch}, and images have {height} x {width}: set patch")
    made = nn.Conv2d(channels, dim, patch, patch)
    nn.init.normal_(made.weight, std=2 / (channels * patch * patch) ** 0.5)  # examples from 0 to 1 become about 1
    return made, (height // patch) * (width // patch)
