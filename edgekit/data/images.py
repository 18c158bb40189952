"""`images:` a folder with one subfolder a class, read only when a client is sampled."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgekit.data.federated import Floats, Integers
from edgekit.data.settings import PICTURES, Images
from edgekit.errors import DataError


@dataclass(frozen=True)
class ImageFolder:
    """Picture files with a class each; `load` reads them as they are asked for."""

    files: list[Path]
    labels: Integers
    classes: list[str]
    settings: Images
    description: str
    groups: NDArray[np.str_] | None = None
    normalisation: dict[str, Any] = field(default_factory=lambda: {"mean": 0.0, "std": 255.0})

    def load(self, indices: Integers) -> Floats:
        """Return (examples, 1 or 3, height, width) in 0..1.

        Raises:
            DataError: a file is not a picture; the message names it.
        """
        return np.stack([self._read(self.files[index]) for index in indices])

    def _read(self, path: Path) -> Floats:
        try:
            with Image.open(path) as image:
                plain = image.convert("L" if self.settings.grayscale else "RGB")
                plain = plain.resize((self.settings.width, self.settings.height), Image.Resampling.BILINEAR)
                pixels = np.asarray(plain, np.float32) / np.float32(255)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise DataError(f"{path} is not a readable picture: {error}") from None
        return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def read_folder(folder: Path, settings: Images) -> ImageFolder:
    """List the pictures below `folder/CLASS/`.

    Raises:
        DataError: no such folder, or no pictures in it.
    """
    files, labels, classes = class_folders(folder, PICTURES)
    kind = "grey" if settings.grayscale else "colour"
    text = f"{folder}, {len(files)} {kind} pictures of {settings.height} x {settings.width}"
    return ImageFolder(files, labels, classes, settings, text)


def class_folders(folder: Path, suffixes: set[str]) -> tuple[list[Path], Integers, list[str]]:
    """List files of a folder with one subfolder a class: files, class indices, class names (sorted)."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder")
    found = {
        place.name: sorted(file for file in place.rglob("*") if file.suffix.lower() in suffixes)
        for place in sorted(folder.iterdir())
        if place.is_dir()
    }
    classes = [name for name, files in found.items() if files]
    if not classes:
        raise DataError(f"{folder} has no subfolders with {', '.join(sorted(suffixes))} files: one folder a class")
    files = [file for name in classes for file in found[name]]
    labels = np.repeat(np.arange(len(classes)), [len(found[name]) for name in classes]).astype(np.int64)
    return files, labels, classes
