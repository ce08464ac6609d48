"""ESPnet: `NumElementsBatchSampler`, which reads its lengths from a file each time."""

import tempfile
from pathlib import Path

from espnet2.samplers.num_elements_batch_sampler import NumElementsBatchSampler

DISTRIBUTION = "espnet"


def planner(lengths, setting):
    folder = tempfile.TemporaryDirectory()
    shapes = Path(folder.name) / "shape"
    lines = [f"{index} {length}" for index, length in enumerate(lengths.tolist())]
    shapes.write_text("\n".join(lines) + "\n", encoding="ascii")

    def plan(_):
        assert folder  # which is removed when nobody knows it any more
        return list(NumElementsBatchSampler(setting["budget"], (str(shapes),)))

    return plan


def batches(planned):
    return [[int(key) for key in batch] for batch in planned]
