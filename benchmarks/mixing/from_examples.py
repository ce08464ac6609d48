"""The language model of the examples, which are scripts beside us."""

import sys

from benchmarks import machine

EXAMPLES = str(machine.REPOSITORY / "examples" / "applications")

sys.path.insert(0, EXAMPLES)
try:
    from language_model import Job, prepare
finally:
    sys.path.remove(EXAMPLES)

__all__ = ["Job", "prepare"]
