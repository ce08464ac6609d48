"""lhotse: `DynamicBucketer`, as `DynamicBucketingSampler` sets it up, on items without audio."""

import random
import warnings
from dataclasses import dataclass

from lhotse.dataset.sampling.base import TokenConstraint
from lhotse.dataset.sampling.dynamic_bucketing import DynamicBucketer, estimate_duration_buckets

DISTRIBUTION = "lhotse"


@dataclass
class Item:
    index: int
    num_tokens: int


def planner(lengths, setting):
    warnings.simplefilter("ignore")
    items = [Item(index, length) for index, length in enumerate(lengths.tolist())]
    constraint = TokenConstraint(max_tokens=setting["budget"])
    # The sampler's defaults: bounds from the first 10,000, a buffer of 20,000.
    bins = estimate_duration_buckets(items[:10_000], setting["buckets"], constraint)

    def plan(turn):
        bucketer = DynamicBucketer(
            items,
            duration_bins=bins,
            world_size=1,
            constraint=constraint,
            buffer_size=20_000,
            shuffle=True,
            rng=random.Random(turn),  # noqa: S311 -- its own
            bucket_rng=random.Random(turn) if setting["sync"] else None,  # noqa: S311
        )
        return list(bucketer)

    return plan


def batches(planned):
    return [[item.index for item in batch] for batch in planned]
