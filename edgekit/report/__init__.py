"""The report: one self-contained page that a person wants to look at."""

from edgekit.report.page import SpikingSample, renew_tflite, write_report

__all__ = ["SpikingSample", "renew_tflite", "write_report"]
