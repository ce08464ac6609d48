"""The facts of a plan as plain values: what `--json` prints, and all that the text knows."""

import dataclasses
from typing import Any

import numpy as np

from batchwright.batching import FixedSize
from batchwright.layout import Layout
from batchwright.lengths import as_lengths
from batchwright.planner import plan as plan_of
from batchwright.plans import Plan
from batchwright.report.histogram import histogram
from batchwright.stats import count_distinct
from batchwright.typing import IntArray, IntoLengths, LengthArray

_MOST_TIMES = 8


def plan_facts(plan: Plan, lengths: IntoLengths) -> dict[str, Any]:
    """Gather every figure of a plan.

    Args:
        plan: The plan.
        lengths: integer[n], the lengths it was made for.

    Returns:
        The fields of `PlanStats` by their names, what `file_facts` adds to them, `lengths`
        (their summary and histogram), `plain_batches` (what random batches of a fixed size would
        waste in the same memory; None without a budget) and `waste`. Values are numbers, strings,
        None, and lists and dicts of them: JSON as it stands. O(n), and one more plan.

    Raises:
        PlanMismatchError: If the plan was made for other lengths.

    Example:
        >>> import batchwright as bw
        >>> facts = plan_facts(bw.plan([5, 3, 8, 2], max_tokens=8), [5, 3, 8, 2])
        >>> facts["num_samples"], facts["max_batch_tokens"], facts["lengths"]["median"]
        (4, 8, 4.0)
    """
    array = as_lengths(lengths)
    facts = file_facts(plan) | dataclasses.asdict(plan.stats(array))
    plain = plain_batches(plan.entry_lengths(array), plan.layout, seed=plan.origin.seed)
    return facts | {
        "lengths": length_facts(array),
        "plain_batches": plain,
        "waste": {
            "plan": _waste(facts, plan.layout),
            "plain_batches": None if plain is None else _waste(plain, plan.layout),
        },
    }


def file_facts(plan: Plan) -> dict[str, Any]:
    """Gather what a plan knows without the lengths it was made for.

    Args:
        plan: The plan.

    Returns:
        The fields of `PlanStats` that need no lengths, and: `num_lengths`, how many lengths the
        plan was made for; `absent`, samples that are in no batch and not listed as dropped;
        `repeated`, entries beyond the first of their sample (or piece); `samples_per_batch_min`;
        `fingerprint` (of the lengths), `digest` (of the batches), `layout`, and `coverage`: how
        often samples are in the plan. O(m log m).

    Example:
        >>> facts = file_facts(Plan(np.array([4, 0, 2]), np.array([0, 2, 3])))
        >>> facts["num_samples"], facts["num_batches"], facts["samples_per_batch_max"]
        (3, 2, 2)
    """
    origin, sizes = plan.origin, plan.sizes
    dropped = {reason: each.size for reason, each in plan.dropped.items()}
    present = count_distinct(plan.indices)
    whole, distinct, split = plan.indices.size, present, 0
    if plan.starts is not None:
        whole = int(np.count_nonzero(plan.starts == 0))
        distinct = count_distinct(plan.indices, plan.starts)
        split = count_distinct(plan.indices[plan.starts > 0])
    absent = None
    if origin.num_samples is not None:
        # A sample may be listed although it is there: another draw, or piece, of it is not.
        listed = np.concatenate((plan.indices, *plan.dropped.values()))
        absent = origin.num_samples - count_distinct(listed)
    return {
        "num_samples": whole,
        "num_batches": len(plan),
        "num_steps": -(-len(plan) // (origin.world_size * origin.accumulate)),
        "budget": plan.layout.budget,
        "samples_per_batch_mean": float(sizes.mean()),
        "samples_per_batch_std": float(sizes.std()),
        "samples_per_batch_min": int(sizes.min()),
        "samples_per_batch_max": int(sizes.max()),
        "num_lengths": origin.num_samples,
        "absent": absent,
        "repeated": plan.indices.size - distinct,
        "split": split,
        "dropped": sum(dropped.values()),
        "dropped_by_reason": dropped,
        "world_size": origin.world_size,
        "accumulate": origin.accumulate,
        "seed": origin.seed,
        "epoch": origin.epoch,
        "fingerprint": origin.fingerprint,
        "digest": plan.digest(),
        "layout": dataclasses.asdict(plan.layout),
        "coverage": coverage_facts(plan),
    }


def coverage_facts(plan: Plan) -> dict[str, Any]:
    """Count how often samples are in a plan; of one that is split, its first piece.

    Args:
        plan: The plan.

    Returns:
        `num_lengths`, the samples that the plan was made for (None: unknown), `most`, and `times`:
        how many `samples`, and which `share` of all, are in the plan so many `times`; `most` times
        stands for as many or more. O(m log m).

    Example:
        >>> coverage_facts(Plan(np.array([4, 0, 4]), np.array([0, 2, 3])))["times"]
        [{'times': 1, 'samples': 1, 'share': None}, {'times': 2, 'samples': 1, 'share': None}]
    """
    whole = plan.indices if plan.starts is None else plan.indices[plan.starts == 0]
    known = plan.origin.num_samples
    # Of the samples that are there: how many there should be may be any number in a file.
    seen = np.unique(whole, return_counts=True)[1]
    counts = np.bincount(np.minimum(seen, _MOST_TIMES), minlength=1).tolist()
    counts[0] = (known or 0) - seen.size
    times = [
        {"times": each, "samples": count, "share": None if known is None else count / known}
        for each, count in enumerate(counts)
        if count > 0
    ]
    return {"num_lengths": known, "most": _MOST_TIMES, "times": times}


def length_facts(lengths: LengthArray) -> dict[str, Any]:
    """Summarize lengths.

    Args:
        lengths: integer[n], at least 1 each.

    Returns:
        `num_samples`, `num_tokens`, `min`, `median`, `mean`, `p95`, `max`, and `histogram`: its
        `edges` (k + 1 of them, a bin holds its lower edge and not its upper) and `counts`.

    Example:
        >>> facts = length_facts(np.array([1, 2, 3, 8]))
        >>> facts["median"], facts["max"], facts["num_tokens"]
        (2.5, 8, 14)
    """
    median, p95 = np.quantile(lengths, [0.5, 0.95])
    total = int(lengths.sum(dtype=np.int64))
    counted = histogram(lengths)
    return {
        "num_samples": int(lengths.size),
        "num_tokens": total,
        "min": int(lengths.min()),
        "median": float(median),
        "mean": total / lengths.size,
        "p95": float(p95),
        "max": int(lengths.max()),
        "histogram": {"edges": counted.edges.tolist(), "counts": counted.counts.tolist()},
    }


def plain_batches(entries: IntArray, layout: Layout, *, seed: int) -> dict[str, Any] | None:
    """Measure the plain way, as a control: random batches of one size that fit the same memory.

    The size is the largest that keeps the budget whatever samples meet: so many that all of
    them may be as long as the longest.

    Args:
        entries: int64[m], the lengths that were planned, after truncation and splitting.
        layout: The budget.
        seed: The seed of the shuffle.

    Returns:
        `batch_size`, `num_batches`, `num_tokens`, `padded_tokens` and `efficiency`. None
        without a budget, or where not even the longest sample is within it.

    Example:
        >>> facts = plain_batches(np.array([2, 2, 4, 4]), Layout(budget=8), seed=0)
        >>> facts["batch_size"], facts["num_batches"], facts["num_tokens"]
        (2, 2, 12)
    """
    if layout.budget is None:
        return None
    batch_size = layout.budget // int(layout.rounded(entries).max())
    if layout.max_samples is not None:
        batch_size = min(batch_size, layout.max_samples)
    if batch_size < 1:
        return None  # a plan made by hand, with a sample above its own budget
    batching = FixedSize(batch_size, pad_to_multiple_of=layout.multiple)
    plain = plan_of(entries, batching=batching, seed=seed)
    padded = batching.layout.batch_tokens(entries[plain.indices], plain.offsets)
    num_tokens, padded_tokens = int(entries.sum()), int(padded.sum())
    return {
        "batch_size": batch_size,
        "num_batches": len(plain),
        "num_tokens": num_tokens,
        "padded_tokens": padded_tokens,
        "efficiency": num_tokens / padded_tokens,
    }


def _waste(facts: dict[str, Any], layout: Layout) -> float:
    """Return the share that is not tokens: of padded batches, or of the rows that are packed."""
    if layout.kind == "packed" and layout.budget is not None:
        return 1 - float(facts["num_tokens"] / (facts["num_batches"] * layout.budget))
    return 1 - float(facts["num_tokens"] / facts["padded_tokens"])
