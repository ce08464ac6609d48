"""Difficulty: one score per sample, higher for harder.

From the samples themselves: `length`, `rarity`, `compression`. From a teacher: `out_of_fold`,
which also estimates how many labels are wrong. From training: `Dynamics`. `percentiles` and
`combined` make measures comparable, and `score` runs any metric over data of any size.
"""

from batchwright.difficulty.dynamics import Dynamics
from batchwright.difficulty.noise import NoiseRate, noise_rate
from batchwright.difficulty.samples import compression, length, rarity, word_counts
from batchwright.difficulty.scores import combined, percentiles
from batchwright.difficulty.scoring import score
from batchwright.difficulty.teachers import OutOfFold, out_of_fold

__all__ = [
    "Dynamics",
    "NoiseRate",
    "OutOfFold",
    "combined",
    "compression",
    "length",
    "noise_rate",
    "out_of_fold",
    "percentiles",
    "rarity",
    "score",
    "word_counts",
]
