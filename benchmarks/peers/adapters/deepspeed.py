"""DeepSpeed: `batch_by_seqlens`, of its variable batch sizes."""

from deepspeed.runtime.data_pipeline.data_sampling.variable_batch_size_and_lr import (
    batch_by_seqlens,
)

DISTRIBUTION = "deepspeed"


def planner(lengths, setting):
    lengths = lengths.tolist()
    return lambda turn: batch_by_seqlens(
        lengths, setting["budget"], sequence_picking_order="seqlen", seed=turn
    )


def batches(planned):
    return [samples for _, samples in planned[0]]
