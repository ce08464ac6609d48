"""Everything that `plan` and `inspect` show of a plan, as one value."""

from dataclasses import asdict, dataclass, replace

import numpy as np

from batchwright.batching import TokenBudget
from batchwright.budgets import Budgets, suggest
from batchwright.errors import BatchwrightError
from batchwright.layout import Layout
from batchwright.lengths import Lengths, as_lengths
from batchwright.planner import plan as plan_of
from batchwright.plans import Plan
from batchwright.stats.baseline import (
    PlainBatches,
    SmallerBatches,
    plain_batches,
    smaller_batches,
)
from batchwright.stats.dial import DialPosition
from batchwright.stats.lengths import LengthStats, length_stats
from batchwright.stats.plan_stats import PlanStats, count_distinct
from batchwright.stats.shapes import ShapeStats, StepCosts, shape_stats, step_costs
from batchwright.typing import IntoLengths, State

_MOST_TIMES = 8


@dataclass(frozen=True)
class TimesDrawn:
    """How many samples are in a plan so many times."""

    times: int  # so many; of `EpochCoverage.most`, as many or more
    samples: int  # how many samples
    share: float | None  # of all samples; None: unknown


@dataclass(frozen=True)
class EpochCoverage:
    """How often samples are in a plan; of one that is split, its first piece."""

    num_lengths: int | None  # the samples that the plan was made for; None: unknown
    most: int  # larger numbers of times are counted as this one
    times: tuple[TimesDrawn, ...]  # from the least to the most


@dataclass(frozen=True)
class FileFacts:
    """What a plan knows without its lengths; names that `PlanStats` has mean the same."""

    num_samples: int
    num_batches: int
    num_steps: int
    budget: int | None
    samples_per_batch_mean: float
    samples_per_batch_std: float
    samples_per_batch_min: int
    samples_per_batch_max: int
    num_lengths: int | None  # lengths that the plan was made for; None: unknown
    absent: int | None  # samples in no batch, and not listed as dropped; None: unknown
    repeated: int  # entries beyond the first of their sample (or piece)
    split: int
    dropped: int
    dropped_by_reason: dict[str, int]
    world_size: int
    accumulate: int
    seed: int
    epoch: int
    fingerprint: str | None
    digest: str
    layout: Layout
    coverage: EpochCoverage


@dataclass(frozen=True)
class BudgetedBatches:
    """What a plan without a budget would waste within one: the size of its largest batch."""

    max_tokens: int
    num_batches: int
    padding: float


@dataclass(frozen=True)
class Waste:
    """Share that is no token: of padded batches, or of the rows that are packed."""

    plan: float  # of the plan
    plain_batches: float | None  # of the batches of today; None: they are unknown


@dataclass(frozen=True)
class Measured:
    """What the lengths of a plan add to its facts."""

    stats: PlanStats
    lengths: LengthStats
    plain_batches: PlainBatches | None  # of today; None: not given, and no budget to assume from
    smaller_batches: SmallerBatches | None  # None: an update has as many, or too few samples
    budgets: Budgets  # suggested for the batches of today
    waste: Waste


@dataclass(frozen=True)
class Inspected:
    """What `inspect` adds to that."""

    shapes_of_batches: ShapeStats
    step_costs: StepCosts
    within_budget: BudgetedBatches | None  # None: it has one, packs rows, or is too small for it


@dataclass(frozen=True)
class PlanFacts:
    """Every figure of a plan."""

    file: FileFacts  # what the plan knows
    measured: Measured | None = None  # what its lengths add; None: they are unknown
    inspected: Inspected | None = None  # what `inspect` adds
    dial: tuple[DialPosition, ...] | None = None  # the mixing dial; None: not asked for

    @property
    def truncated(self) -> int:
        """Samples that lose tokens, as far as is known."""
        return 0 if self.measured is None else self.measured.stats.truncated

    @property
    def split(self) -> int:
        """Samples that are cut into pieces."""
        return self.file.split if self.measured is None else self.measured.stats.split

    @property
    def within_budget(self) -> BudgetedBatches | None:
        """What a plan without a budget would waste within one, if it was inspected."""
        return None if self.inspected is None else self.inspected.within_budget

    @property
    def wasted(self) -> str:
        """What waste is: ``"empty"`` cells of rows packed to a budget, or ``"padding"``."""
        layout = self.file.layout
        is_filled = layout.kind == "packed" and (layout.budget or layout.caps) is not None
        return "empty" if is_filled else "padding"

    def as_json(self) -> State:
        """Return the figures under the ``--json`` keys."""
        facts = asdict(self.file) | {"layout": self.file.layout.described()}
        if self.measured is not None:
            measured = asdict(self.measured)
            facts |= measured.pop("stats") | measured
        if self.inspected is not None:
            facts |= asdict(self.inspected)
        if self.dial is not None:
            facts["dial"] = [asdict(each) for each in self.dial]
        return facts


def plan_facts(plan: Plan, lengths: IntoLengths, *, batch_size: int | None = None) -> PlanFacts:
    """Gather what `plan` shows. O(n), and two more plans.

    Args:
        plan: The plan.
        lengths: Those it was made for.
        batch_size: Samples that a batch holds at present. None: assumed.

    Example:
        >>> import batchwright as bw
        >>> facts = plan_facts(bw.plan([5, 3, 8, 2], max_tokens=8), [5, 3, 8, 2])
        >>> facts.file.num_samples, facts.measured.lengths.median
        (4, 4.0)
    """
    checked = Lengths.of(lengths)
    stats = plan.stats(checked)
    array = np.delete(as_lengths(checked), plan.dropped.get("empty", ()), axis=0)
    entries = plan.entry_lengths(checked)
    plain = plain_batches(plan, entries, stats, batch_size=batch_size)
    measured = Measured(
        stats,
        length_stats(array),
        plain,
        smaller_batches(plan, entries, stats),
        suggest(array, batch_size=batch_size),
        Waste(_waste(stats, plan.layout), None if plain is None else 1 - plain.efficiency),
    )
    return PlanFacts(file_facts(plan), measured)


def inspected_facts(
    plan: Plan, lengths: IntoLengths, *, batch_size: int | None = None
) -> PlanFacts:
    """Gather what `inspect` shows. O(n log n), and three more plans at most."""
    checked = Lengths.of(lengths)
    facts = plan_facts(plan, checked, batch_size=batch_size)
    assert facts.measured is not None  # noqa: S101 -- there are lengths
    inspected = Inspected(
        shape_stats(plan, checked),
        step_costs(plan, checked),
        within_budget(plan, checked),
    )
    return replace(facts, inspected=inspected)


def file_facts(plan: Plan) -> FileFacts:
    """Gather what a plan knows without the lengths it was made for. O(m log m).

    Example:
        >>> facts = file_facts(Plan(np.array([4, 0, 2]), np.array([0, 2, 3])))
        >>> facts.num_samples, facts.num_batches, facts.samples_per_batch_max
        (3, 2, 2)
    """
    origin, sizes = plan.origin, plan.sizes
    dropped = {reason: each.size for reason, each in plan.dropped.items()}
    whole, distinct, split = plan.indices.size, count_distinct(plan.indices), 0
    if plan.starts is not None:
        whole = int(np.count_nonzero(plan.starts == 0))
        distinct = count_distinct(plan.indices, plan.starts)
        split = count_distinct(plan.indices[plan.starts > 0])
    absent = None
    if origin.num_samples is not None:
        # A sample may be listed although it is there: another draw, or piece, of it is not.
        listed = np.concatenate((plan.indices, *plan.dropped.values()))
        absent = origin.num_samples - count_distinct(listed)
    return FileFacts(
        num_samples=whole,
        num_batches=len(plan),
        num_steps=-(-len(plan) // (origin.world_size * origin.accumulate)),
        budget=plan.layout.budget,
        samples_per_batch_mean=float(sizes.mean()),
        samples_per_batch_std=float(sizes.std()),
        samples_per_batch_min=int(sizes.min()),
        samples_per_batch_max=int(sizes.max()),
        num_lengths=origin.num_samples,
        absent=absent,
        repeated=plan.indices.size - distinct,
        split=split,
        dropped=sum(dropped.values()),
        dropped_by_reason=dropped,
        world_size=origin.world_size,
        accumulate=origin.accumulate,
        seed=origin.seed,
        epoch=origin.epoch,
        fingerprint=origin.fingerprint,
        digest=plan.digest(),
        layout=plan.layout,
        coverage=epoch_coverage(plan),
    )


def epoch_coverage(plan: Plan) -> EpochCoverage:
    """Count how often samples are in a plan. O(m log m).

    Example:
        >>> epoch_coverage(Plan(np.array([4, 0, 4]), np.array([0, 2, 3]))).times[1]
        TimesDrawn(times=2, samples=1, share=None)
    """
    whole = plan.indices if plan.starts is None else plan.indices[plan.starts == 0]
    known = plan.origin.num_samples
    # Of the samples that are there: how many there should be may be any number in a file.
    seen = np.unique(whole, return_counts=True)[1]
    counts = np.bincount(np.minimum(seen, _MOST_TIMES), minlength=1).tolist()
    counts[0] = (known or 0) - seen.size
    times = tuple(
        TimesDrawn(each, count, None if known is None else count / known)
        for each, count in enumerate(counts)
        if count > 0
    )
    return EpochCoverage(known, _MOST_TIMES, times)


def within_budget(plan: Plan, lengths: IntoLengths) -> BudgetedBatches | None:
    """Measure what a plan of a fixed batch size would waste within a budget, in such updates.

    Example:
        >>> import batchwright as bw
        >>> lengths = np.array([9, 1, 1, 9])
        >>> plan = bw.plan(lengths, batching=bw.FixedSize(2), order=bw.Sequential())
        >>> within_budget(plan, lengths)
        BudgetedBatches(max_tokens=18, num_batches=2, padding=0.0)
    """
    layout, origin = plan.layout, plan.origin
    if layout.budget is not None or layout.kind == "packed" or layout.max_samples is None:
        return None
    entries = plan.entry_lengths(lengths)
    if origin.world_size * origin.accumulate > len(entries):
        return None  # updates that such samples cannot fill
    longest = layout.multiple * -(-as_lengths(entries, columns=True).max(axis=0) // layout.multiple)
    usual = suggest(entries, batch_size=layout.max_samples).max_tokens
    max_tokens = max(usual, int(longest.sum()))
    try:
        made = plan_of(
            entries,
            batching=TokenBudget(max_tokens, pad_to_multiple_of=layout.multiple),
            batch_size=layout.max_samples,
            seed=origin.seed,
            world_size=origin.world_size,
            accumulate=origin.accumulate,
            last="repeat",
        )
    except BatchwrightError:  # too few samples for such updates
        return None
    laid_out = made.layout.batch_tokens(entries[made.indices], made.offsets)
    padding = 1 - float(np.sum(entries) / np.sum(laid_out))
    return BudgetedBatches(max_tokens, len(made), padding)


def _waste(stats: PlanStats, layout: Layout) -> float:
    if layout.kind == "packed" and layout.budget is not None:
        return 1 - stats.num_tokens / (stats.num_batches * layout.budget)
    return 1 - stats.efficiency
