"""Files for phones and boards: TFLite, each verified before it counts."""

from edgekit.export.metadata import read_metadata
from edgekit.export.tflite import Exported, export

__all__ = ["Exported", "export", "read_metadata"]
