"""Views of typed facts: reports for a terminal and as HTML, and plots."""

from batchwright.report.plots import plot_dial, plot_format

__all__ = ["plot_dial", "plot_format"]
