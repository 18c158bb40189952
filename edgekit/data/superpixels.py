"""`superpixels:SOURCE`: another source's images as graphs of superpixels (Dwivedi et al. 2023, section 4.1.2).

SLIC (Achanta et al. 2012, of scikit-image) cuts an image into regions; a node has its region's mean colours and the
coordinates of its middle. Each node is joined to its nearest by colour and place with
exp(-|x_i - x_j|^2 / s_x^2 - |c_i - c_j|^2 / s_c^2), s the mean distance to the nearest.
"""

import numpy as np

from edgekit.arrays import Array
from edgekit.data.federated import ArraySource, Source
from edgekit.data.packed import packed
from edgekit.data.settings import Superpixels
from edgekit.errors import DataError, MissingExtraError

COMPACTNESS = 0.25
"""How much place counts against colour, of images from 0 to 1: as for Dwivedi et al.'s graphs of MNIST."""


def graph(image: Array, settings: Superpixels) -> tuple[Array, Array]:
    """Return one image's nodes (nodes, channels + 2) and adjacency (nodes, nodes), padded with zeros.

    Args:
        image: (channels, height, width), from 0 to 1.
        settings: how many nodes and neighbours at most.
    """
    from skimage.segmentation import slic

    channels, height, width = image.shape
    regions = slic(
        image.transpose(1, 2, 0),
        settings.nodes,
        compactness=COMPACTNESS,
        start_label=0,
        channel_axis=-1,
        convert2lab=False,
    ).ravel()
    found, regions = np.unique(regions, return_inverse=True)
    many = min(len(found), settings.nodes)
    sizes = np.bincount(regions)
    rows, columns = np.mgrid[:height, :width].reshape(2, -1) / max(height, width)
    parts = [*image.reshape(channels, -1), rows, columns]
    means = np.stack([np.bincount(regions, part) / sizes for part in parts], 1)[
        np.argsort(-sizes, kind="stable")[:many]
    ]
    nodes, joined = np.zeros((settings.nodes, channels + 2), np.float32), np.zeros((settings.nodes,) * 2, np.float32)
    nodes[:many] = means
    joined[:many, :many] = _edges(means[:, :channels], means[:, channels:], settings.neighbours)
    return nodes, joined


def _edges(colours: Array, places: Array, neighbours: int) -> Array:
    """Return weights (nodes, nodes) to each node's nearest, made symmetric."""
    many = len(places)
    kept = min(neighbours, many - 1)
    if kept < 1:
        return np.zeros((many, many))
    far = np.square(places[:, None] - places[None]).sum(-1)
    unlike = np.square(colours[:, None] - colours[None]).sum(-1)
    nearest = np.sort(far, 1)[:, 1 : kept + 1].mean(1, keepdims=True)
    alike = np.exp(-far / np.maximum(nearest, 1e-9) - unlike / max(float(unlike.mean()), 1e-9))
    np.fill_diagonal(alike, 0)
    smallest = np.sort(alike, 1)[:, -kept][:, None]
    one_way = np.where((alike >= smallest) & (alike > 0), alike, 0)
    return np.maximum(one_way, one_way.T)


def as_graphs(source: Source, settings: Superpixels, where: str) -> ArraySource:
    """Turn a source's images into graphs.

    Raises:
        DataError: the examples are no images, or scikit-image is missing.
    """
    try:
        import skimage.segmentation  # noqa: F401
    except ImportError:
        raise MissingExtraError("scikit-image", "graphs") from None
    x = source.load(np.arange(len(source.labels)))
    if x.ndim != 4 or min(x.shape[2:]) < 4:
        raise DataError(
            f"{where}: superpixels are of images, (channels, height, width) of 4 pixels and more; these are "
            f"{x.shape[1:]}"
        )
    made = [graph(image, settings) for image in x]
    arrays = {"x": np.stack([nodes for nodes, _ in made]), "adjacency": np.stack([joined for _, joined in made])}
    graphs, text = packed(arrays, "", where)
    return ArraySource(
        graphs[:, None],
        source.labels,
        source.classes,
        f"{source.description}, as {text}",
        source.groups,
        {"mean": 0.0, "std": 1.0, "features": "superpixels"},  # by their shape they could be pictures
    )
