"""Scores shard after shard, slowly, until somebody kills it: run by `test_scoring`."""

import sys
import time
from pathlib import Path

import numpy as np

from batchwright.difficulty import score

SAMPLES = np.random.default_rng(0).normal(size=1_000)
SHARD_SIZE = 50


def slow_square(samples):
    with CALLS.open("a", encoding="utf-8") as file:
        file.write(".")
    time.sleep(float(DELAY))
    return samples**2


if __name__ == "__main__":
    FOLDER, CALLS, DELAY = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    scores = score(SAMPLES, slow_square, shard_size=SHARD_SIZE, folder=FOLDER)
    np.save(sys.argv[4], scores)
