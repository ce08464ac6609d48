"""Difficulty: one score per sample, higher for harder.

From the samples themselves: `length`, `rarity`, `compression`. From a teacher: `out_of_fold`,
which also estimates how many labels are wrong. From training: `Dynamics`. `percentiles` and
`combined` make measures comparable, and `score` runs any metric over data of any size.
"""

from batchwright.difficulty.dynamics import Dynamics
from batchwright.difficulty.label_noise import NoiseRate, noise_rate
from batchwright.difficulty.out_of_fold_loss import OutOfFold, out_of_fold
from batchwright.difficulty.percentile_ranks import combined, percentiles
from batchwright.difficulty.sample_length import length
from batchwright.difficulty.scoring import score
from batchwright.difficulty.text_compression import compression
from batchwright.difficulty.token_rarity import rarity, word_counts

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
