"""From lengths to plans: one for each epoch, all with the same number of batches."""

import copy
import dataclasses
import operator

import numpy as np

from batchwright.batching import Batching, Draft, TokenBudget
from batchwright.batching.custom import BatchingFunction, as_batching
from batchwright.dealing import deal
from batchwright.errors import BudgetError, PlanError
from batchwright.layout import Layout
from batchwright.lengths import as_lengths, fingerprint, totals
from batchwright.order import Order, Pools, Shuffle, as_pools
from batchwright.oversize import fit_items
from batchwright.plans import Origin, Plan
from batchwright.seeding import generator
from batchwright.typing import Cost, FloatArray, IntArray, IntoLengths, LengthArray

_ATTEMPTS = 64

_BEFORE_DEFERRING = 4
"""Attempts at an epoch whose order can do without a few of its samples."""


class Planner:
    """Plans epoch after epoch over the same lengths.

    Guarantees that every epoch's plan has the same number of batches, a multiple of
    ``world_size * accumulate``, reached by making or splitting batches smaller, never by
    dropping or repeating samples. A planner is a pure function of its arguments and the epoch:
    every rank, worker and machine computes the same plan, without talking.

    Args:
        lengths: integer[n], one length per sample (tokens, frames, patches); or integer[n, k],
            several: source and target, height and width.
        batching: How samples become batches: `TokenBudget`, `Packing`, `FixedSize`, or any
            function ``(order, lengths, rng) → Plan``.
        order: Which samples, in what sequence.
        seed: Zero or larger.
        world_size: Ranks that share each update.
        accumulate: Batches of one update on each rank.
        step_tokens: Aim at this many real tokens an update; finds `accumulate`. It says what
            is learnt from at once, where the batching's budget says what fits into memory.
        cost: What balance between ranks is measured in: ``"padded"``, ``"quadratic"`` (squared
            lengths), or a function of lengths. None deals batches for mix alone.

    Attributes:
        accumulate: As given, or as found for `step_tokens`.

    Raises:
        LengthsError: If the lengths are not positive whole numbers, [n].
        BudgetError: If a sample alone exceeds the budget and no policy was chosen, or settings
            contradict one another.
        PlanError: If there are too few samples for that many ranks.

    Example:
        >>> planner = Planner([5, 3, 8, 2, 7, 1], batching=TokenBudget(10), world_size=2)
        >>> len(planner), len(planner(0)), len(planner(1))
        (4, 4, 4)
    """

    def __init__(
        self,
        lengths: IntoLengths,
        *,
        batching: Batching | BatchingFunction,
        order: Order | None = None,
        seed: int = 0,
        world_size: int = 1,
        accumulate: int | None = None,
        step_tokens: int | None = None,
        cost: Cost | None = None,
    ) -> None:
        if step_tokens is not None and accumulate is not None:
            raise BudgetError(
                "accumulate and step_tokens both say how large an update is. Give one."
            )
        self.lengths: LengthArray = as_lengths(lengths, columns=True)
        self._totals = totals(self.lengths)  # what orders go by
        self.batching = as_batching(batching)
        self.order: Order = Shuffle() if order is None else order
        self.seed = seed
        self.cost: Cost | None = cost
        self.step_tokens = None if step_tokens is None else _at_least_1("step_tokens", step_tokens)
        self._fingerprint = fingerprint(self.lengths)
        self._items = fit_items(self.lengths, self.batching.layout, self.batching.oversize)
        self._resize(world_size, accumulate)

    def __len__(self) -> int:
        """Count the batches of an epoch: the same for every epoch."""
        return self._num_batches

    def __call__(self, epoch: int) -> Plan:
        """Plan one epoch.

        Args:
            epoch: Zero or larger.

        Returns:
            The global plan: of all ranks, in the sequence of training. ``plan.shard(rank,
            world_size)`` is one rank's part. O(n), and one sort of 64-bit keys. Draws that an
            order can do without, and that did not fit the number of batches, are listed in
            ``plan.dropped["deferred"]``.

        Raises:
            PlanError: If a batching that hangs on chance never fits the number of batches.
        """
        pools = self._pools(epoch)
        if pools.may_defer:  # where few long samples were drawn, fewer than there are batches
            pools = pools.with_at_least(len(self))
        deferred = [np.empty(0, dtype=np.int64)]
        for attempt in range(_ATTEMPTS):
            rng = generator(self.seed, "batching", epoch, attempt)
            draft = self.batching.draft(
                pools,
                self._items.lengths,
                rng=rng,
                multiple=self.world_size * self.accumulate,
                num_batches=len(self),
            )
            needed = draft.offsets.size - 1
            if needed <= len(self):
                del pools  # frees 8 bytes a sample before batches are rearranged
                return self._dealt(draft, epoch, np.concatenate(deferred))
            if pools.may_defer and attempt >= _BEFORE_DEFERRING:
                pools, left_out = pools.without(1.01 - len(self) / needed)
                pools = pools.with_at_least(len(self))
                deferred.append(left_out)
        raise PlanError(
            f"epoch {epoch} needs more than {len(self)} batches, {_ATTEMPTS} times over. The "
            "batching varies too much from epoch to epoch; let it make smaller batches."
        )

    def __repr__(self) -> str:
        """Describe the planner in a line."""
        return (
            f"Planner({self.num_samples} lengths, {self.batching}, {self.order}, "
            f"seed={self.seed}, world_size={self.world_size}, accumulate={self.accumulate}, "
            f"{len(self)} batches an epoch)"
        )

    @property
    def num_samples(self) -> int:
        """How many samples there are."""
        return len(self.lengths)

    @property
    def fingerprint(self) -> str:
        """Hash of the lengths, 32 hexadecimal digits."""
        return self._fingerprint

    def resized(self, world_size: int, accumulate: int | None = None) -> "Planner":
        """Plan the same epochs for another number of ranks.

        Args:
            world_size: Ranks that share each update.
            accumulate: Batches of one update on each rank. None: found anew for `step_tokens`
                where that was given, else kept.

        Returns:
            A planner over the same lengths, which are not checked again.
        """
        if accumulate is None and self.step_tokens is None:
            accumulate = self.accumulate
        other = copy.copy(self)
        other._resize(world_size, accumulate)  # noqa: SLF001
        return other

    def _resize(self, world_size: int, accumulate: int | None) -> None:
        self.world_size = _at_least_1("world_size", world_size)
        if accumulate is None and self.step_tokens is not None:
            self.accumulate, updates = self._accumulate_for(self.step_tokens)
            self._num_batches = updates * self.world_size * self.accumulate
        else:
            self.accumulate = _at_least_1("accumulate", 1 if accumulate is None else accumulate)
            update = self.world_size * self.accumulate
            self._num_batches = -(-self._count(update) // update) * update
        if self._num_batches > self._fewest:
            raise PlanError(
                f"{self._fewest} samples cannot fill {self._num_batches} batches, a "
                f"multiple of world_size={self.world_size} × accumulate={self.accumulate}. Use "
                "fewer ranks, accumulate less, or raise step_tokens."
            )

    def _accumulate_for(self, step_tokens: int) -> tuple[int, int]:
        """Find how many batches a rank accumulates, and how many updates make an epoch."""
        tokens = float(self._items.lengths[self._pools(0).members].sum(dtype=np.float64))
        updates = max(1, round(tokens / step_tokens))
        ranks = updates * self.world_size
        accumulate = -(-self._count(self.world_size) // ranks)
        # Smaller windows of mixing need more batches: count again for the update now known.
        return -(-self._count(self.world_size * accumulate) // ranks), updates

    def _count(self, multiple: int) -> int:
        """Find a number of batches that suits every epoch."""
        counts, sizes = [], []
        for epoch in getattr(self.order, "probes", (0,)):
            pools, rng = self._pools(epoch), generator(self.seed, "count")
            count = self.batching.count(pools, self._items.lengths, rng=rng, multiple=multiple)
            if pools.eligible is not None and pools.eligible * count < pools.members.size:
                raise PlanError(
                    f"in epoch {epoch} the order draws from {pools.eligible} samples at first, "
                    f"fewer than the {pools.members.size / count:.0f} of a batch: it would hold "
                    "the same ones over and over. Admit more from the start (a pacing's start=)."
                )
            counts.append(count)
            sizes.append(pools.members.size)
        self._fewest = min(sizes)
        # Where epochs that were not looked at may need more, there is room for the spread.
        return max(counts) + self._may_vary * (max(counts) - min(counts))

    @property
    def _may_vary(self) -> bool:
        return bool(getattr(self.order, "varies", False))

    def _pools(self, epoch: int) -> Pools:
        ordered = self.order(self._totals, seed=self.seed, epoch=epoch)
        return self._items.of(as_pools(ordered, self.num_samples))

    def _dealt(self, draft: Draft, epoch: int, deferred: IntArray) -> Plan:
        layout = dataclasses.replace(self.batching.layout, max_length=self._items.max_length)
        if draft.shapes is not None:
            layout = dataclasses.replace(layout, shapes=draft.shapes)

        def costs_of(draft: Draft) -> FloatArray | None:
            if self.cost is None:
                return None
            lengths = self._items.lengths[draft.indices].astype(np.int64, copy=False)
            return layout.batch_costs(lengths, draft.offsets, self.cost)

        if draft.offsets.size - 1 < len(self):
            draft = draft.split_to(len(self), weights=costs_of(draft))
        places = deal(
            len(self),
            draft.pools,
            keys=draft.keys,
            costs=costs_of(draft),
            world_size=self.world_size,
            accumulate=self.accumulate,
            rng=generator(self.seed, "deal", epoch),
        )
        return self._plan(draft, places, layout, epoch, deferred)

    def _plan(
        self, draft: Draft, places: IntArray, layout: Layout, epoch: int, deferred: IntArray
    ) -> Plan:
        indices, starts = self._items.samples(draft.indices)
        dropped = {"oversize": self._items.dropped, "deferred": self._items.samples(deferred)[0]}
        dropped = {reason: samples for reason, samples in dropped.items() if samples.size}
        origin = Origin(
            self.num_samples,
            self._fingerprint,
            self.seed,
            epoch,
            self.world_size,
            self.accumulate,
        )
        plan = Plan(indices, draft.offsets, starts, dropped, layout, origin)
        return plan.take(places)


def plan(
    lengths: IntoLengths,
    *,
    max_tokens: int | None = None,
    batching: Batching | BatchingFunction | None = None,
    order: Order | None = None,
    seed: int = 0,
    epoch: int = 0,
    world_size: int = 1,
    accumulate: int | None = None,
    step_tokens: int | None = None,
    cost: Cost | None = None,
) -> Plan:
    """Plan one epoch: the same plan as the `Planner` of the same arguments makes of it.

    Args:
        lengths: integer[n], one length per sample (tokens, frames, patches).
        max_tokens: Short for ``batching=TokenBudget(max_tokens)``.
        batching: How samples become batches; see `Planner`.
        order: Which samples, in what sequence; shuffled by default.
        seed: Zero or larger.
        epoch: Zero or larger.
        world_size: Ranks that share each update.
        accumulate: Batches of one update on each rank.
        step_tokens: Aim at this many real tokens an update; see `Planner`.
        cost: What balance between ranks is measured in; see `Planner`.

    Returns:
        The global plan of that epoch.

    Raises:
        LengthsError: If the lengths are not positive whole numbers, [n].
        BudgetError: If neither or both of `max_tokens` and `batching` are given, or a sample
            alone exceeds the budget.
        PlanError: If there are too few samples for that many ranks.

    Example:
        >>> plan([5, 3, 8, 2, 7, 1], max_tokens=10).stats([5, 3, 8, 2, 7, 1]).max_batch_tokens
        10
    """
    if (max_tokens is None) == (batching is None):
        raise BudgetError(
            "give either max_tokens or batching: plan(lengths, max_tokens=16_384), or "
            "plan(lengths, batching=Packing(8_192))."
        )
    planner = Planner(
        lengths,
        batching=TokenBudget(max_tokens) if batching is None else batching,  # type: ignore[arg-type]
        order=order,
        seed=seed,
        world_size=world_size,
        accumulate=accumulate,
        step_tokens=step_tokens,
        cost=cost,
    )
    return planner(epoch)


def _at_least_1(name: str, value: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise BudgetError(f"{name}={value!r}: expected an integer of at least 1.")
    return number
