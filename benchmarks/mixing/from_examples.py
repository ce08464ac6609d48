"""The language model and the classifier of the examples, which are scripts beside us."""

import sys

from benchmarks import machine

EXAMPLES = str(machine.REPOSITORY / "examples" / "applications")

sys.path.insert(0, EXAMPLES)
try:
    import text_classification
    from language_model import Job, prepare
finally:
    sys.path.remove(EXAMPLES)

__all__ = ["Job", "prepare", "text_classification"]
