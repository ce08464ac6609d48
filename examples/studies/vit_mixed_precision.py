"""Train a small Vision Transformer on real handwritten digits, in several precisions.

    python examples/studies/vit_mixed_precision.py              three seeds
    python examples/studies/vit_mixed_precision.py --quick      one seed, a shorter run
    python examples/studies/vit_mixed_precision.py --json FILE  also write all figures

It trains in fp32, in bf16, and in the precision that Precision("auto") measures to be the fastest
here, on the same batches in turns. It reports the time of each, and whether they learn alike.
"""

import math
import sys
from pathlib import Path

from precision_command import command
from precision_parity import Experiment

import batchwright as bw

sys.path.append(str(Path(__file__).resolve().parents[1] / "applications"))
import vision_transformer


def experiment(*, quick: bool, seed: int) -> Experiment:
    """Say what is trained, how long, and in which batches: 64 images an update."""
    job = vision_transformer.prepare(seed=seed)
    return Experiment(
        job,
        batching=bw.FixedSize(64),
        epochs=5 if quick else 12,
        baseline=math.log(10),
        accuracy=job.accuracy,
    )


if __name__ == "__main__":
    command(experiment, "vit_mixed_precision", __doc__)
