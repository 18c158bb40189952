"""The report: one self-contained page that a person wants to look at."""

from edgekit.report.comparison import write_comparison
from edgekit.report.drawing import standalone
from edgekit.report.page import SpikingSample, renew_spiking, renew_tflite, spiking_pictures, style, write_report
from edgekit.report.pictures import rebuilt as rebuilt_picture

__all__ = [
    "SpikingSample",
    "rebuilt_picture",
    "renew_spiking",
    "renew_tflite",
    "spiking_pictures",
    "standalone",
    "style",
    "write_comparison",
    "write_report",
]
