"""The report: one self-contained page that a person wants to look at."""

from edgekit.report.page import write_report

__all__ = ["write_report"]
