"""The job of the demonstration, and its ways of making batches, which are scripts beside us."""

import sys

from benchmarks import machine

EXAMPLES = str(machine.REPOSITORY / "examples")

sys.path.insert(0, EXAMPLES)
try:
    from demo_arms import Batches, Updates, into_updates, length_grouped, plain, windows
    from language_model import Job, prepare
finally:
    sys.path.remove(EXAMPLES)

__all__ = [
    "Batches",
    "Job",
    "Updates",
    "into_updates",
    "length_grouped",
    "plain",
    "prepare",
    "windows",
]
