"""What a plan is worth, as facts; and the facts as text.

`facts` is the one place where figures come from: what `--json` prints is what the text shows.
`text` needs rich and is imported by name.
"""

from batchwright.report.facts import file_facts, plan_facts

__all__ = ["file_facts", "plan_facts"]
