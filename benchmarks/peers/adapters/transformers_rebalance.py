"""transformers: `BatchRebalanceSampler`, the batches of all ranks."""

from transformers.trainer_pt_utils import BatchRebalanceSampler

DISTRIBUTION = "transformers"


def planner(lengths, setting):
    tokens = setting["budget"] * setting["world_size"] * setting["accumulate"]
    size = max(1, int(tokens / lengths.mean()))
    lengths = lengths.tolist()

    def plan(turn):
        sampler = BatchRebalanceSampler(
            lengths,
            effective_batch_size=size,
            dp_size=setting["world_size"],
            grad_accum=setting["accumulate"],
            seed=turn,
            drop_last=False,
        )
        # Each rank plans the whole epoch and keeps its share. One rank's work is timed; the
        # others', which repeat it, are added afterwards.
        return sampler, list(sampler)

    return plan


def batches(planned):
    sampler, found = planned
    ranks = [found]
    for rank in range(1, sampler.dp_size):
        sampler.rank = rank
        ranks.append(list(sampler))
    return [batch for slot in zip(*ranks, strict=True) for batch in slot]
