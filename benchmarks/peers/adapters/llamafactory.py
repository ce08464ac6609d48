"""LLaMA-Factory: `greedy_knapsack`, over the whole set at once."""

import importlib.metadata
import importlib.util
import sys
from collections import defaultdict

DISTRIBUTION = "llamafactory"

# The file needs the standard library only, its package a dozen frameworks.
_FILE = next(
    file
    for file in importlib.metadata.files("llamafactory")
    if file.as_posix().endswith("data/processor/processor_utils.py")
)
_SPEC = importlib.util.spec_from_file_location("processor_utils", _FILE.locate())
_PROCESSOR = importlib.util.module_from_spec(_SPEC)
sys.modules["processor_utils"] = _PROCESSOR  # where its dataclass looks
_SPEC.loader.exec_module(_PROCESSOR)


def planner(lengths, setting):
    values = lengths.tolist()

    def plan(_):
        """Pack, and hand out the samples by their lengths, as its callers do."""
        samples = defaultdict(list)
        for index, length in enumerate(values):
            samples[length].append(index)
        # It empties the list that it is given, and returns lengths.
        knapsacks = _PROCESSOR.greedy_knapsack(values.copy(), setting["budget"])
        return [[samples[length].pop() for length in knapsack] for knapsack in knapsacks]

    return plan


def batches(planned):
    return planned
