"""What a plan is worth, as facts; and the facts as text, and as a plot.

`facts` is the one place where figures come from: what `--json` prints is what the text shows.
`text` needs rich and is imported by name; `plot_dial` needs matplotlib when it is called.
"""

from batchwright.report.dial_plot import plot_dial, plot_format
from batchwright.report.facts import file_facts, plan_facts

__all__ = ["file_facts", "plan_facts", "plot_dial", "plot_format"]
