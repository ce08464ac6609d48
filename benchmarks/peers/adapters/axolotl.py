"""axolotl: `MultipackBatchSampler`, one bin a batch, in one process."""

import torch
from axolotl.utils.samplers.multipack import MultipackBatchSampler
from torch.utils.data import RandomSampler, SequentialSampler

DISTRIBUTION = "axolotl"


def planner(lengths, setting):
    def plan(turn):
        generator = torch.Generator().manual_seed(turn)
        keeps = setting["sequential"]
        sampler = (
            SequentialSampler(lengths) if keeps else RandomSampler(lengths, generator=generator)
        )
        multipack = MultipackBatchSampler(
            sampler,
            batch_size=1,
            batch_max_len=setting["budget"],
            lengths=lengths,
            bin_size=200,
            drop_last=False,
            sequential=keeps,
            num_processes=1,
        )
        return multipack.generate_batches()

    return plan


def batches(planned):
    return [[int(sample) for sample in one] for batch in planned for one in batch]
