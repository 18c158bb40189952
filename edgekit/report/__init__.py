"""The report: one self-contained page that a person wants to look at."""

from edgekit.report.page import SpikingSample, write_report

__all__ = ["SpikingSample", "write_report"]
