"""transformers: `LengthGroupedSampler`, behind the Trainer's length grouping."""

import torch
from transformers.trainer_pt_utils import LengthGroupedSampler

DISTRIBUTION = "transformers"


def planner(lengths, setting):
    longest, mean = int(lengths.max()), float(lengths.mean())
    # A fixed number of samples: either the most that keeps the budget whatever comes, or the one
    # whose batches hold, on average, as many tokens as the budget.
    tokens = longest if setting["fit"] == "longest" else mean
    size = max(1, int(setting["budget"] / tokens))
    lengths = lengths.tolist()

    def plan(turn):
        generator = torch.Generator().manual_seed(turn)
        sampler = LengthGroupedSampler(size, lengths=lengths, generator=generator)
        order = list(sampler)
        return [order[start : start + size] for start in range(0, len(order), size)]

    return plan
