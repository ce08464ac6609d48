"""Views of typed facts: for a terminal, as HTML, as plots.

`text` needs rich and is imported by name; `plot_dial` needs matplotlib when it is called.
"""

from batchwright.report.dial_plot import plot_dial, plot_format

__all__ = ["plot_dial", "plot_format"]
