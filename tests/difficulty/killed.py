"""Scores shard after shard, and stops before the one that it is given: run by `test_scoring`."""

import sys
import time
from pathlib import Path

import numpy as np

from batchwright.difficulty import score

SAMPLES = np.random.default_rng(0).normal(size=1_000)
SHARD_SIZE = 50


def square(samples):
    with CALLS.open("a", encoding="utf-8") as file:
        file.write(".")
    if CALLS.stat().st_size == STOP_AT:
        time.sleep(10_000)
    return samples**2


if __name__ == "__main__":
    FOLDER, CALLS, STOP_AT = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    scores = score(SAMPLES, square, shard_size=SHARD_SIZE, folder=FOLDER)
    np.save(sys.argv[4], scores)
