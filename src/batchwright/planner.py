"""From lengths to plans: one for each epoch, all with the same number of batches."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from batchwright._checks import MOST_EPOCHS, check_choice, whole_number
from batchwright.batching.custom import BatchingFunction
from batchwright.epochs import Epochs, Room
from batchwright.errors import PlanError
from batchwright.functions import Functions, Sized, of_shards
from batchwright.index import LengthIndex
from batchwright.layout import check_cost
from batchwright.lengths import Lengths, totals, without_empty
from batchwright.order import Shuffle, as_order
from batchwright.order.plain import Blocks
from batchwright.oversize import fit_items
from batchwright.plans import Origin, Plan, frozen
from batchwright.shard_index import ShardIndex
from batchwright.sizing import sized, sized_epoch
from batchwright.typing import (
    Batching,
    Cost,
    Empty,
    IntArray,
    IntoLengths,
    Last,
    LengthArray,
    Order,
)
from batchwright.without import without_samples

if TYPE_CHECKING:
    from batchwright.constraints import Constraints


class Planner:
    """Plans epoch after epoch over the same lengths.

    Guarantees that every epoch's plan has the same number of batches, a multiple of
    ``world_size * accumulate``, by splitting batches. Where batches of one sample cannot be split
    further, `last` decides. A planner is a pure function of its arguments and the epoch: every
    rank, worker and machine computes the same plan without communication.

    Samples are sorted by length once. Where the order and the batching look only at lengths, and
    there is no constraint, a plan is then computed batch by batch, when it is asked for, and
    nothing as large as the data is made per epoch; otherwise a plan holds arrays.

    Args:
        lengths: integer[n], one length per sample (tokens, frames, patches); integer[n, k],
            several: source and target, height and width; or a `LengthIndex`, or a `ShardIndex`.
        max_tokens: Short for ``batching=TokenBudget(max_tokens)``.
        batching: How samples become batches: `TokenBudget`, `Packing`, `FixedSize`, or any
            function ``(order, lengths, rng) → Plan``.
        batch_size: Samples that a batch holds at present, on each rank. An update keeps its present
            tokens: `step_tokens` is set for that, unless given. Without `max_tokens` and
            `batching`, the budget is what such batches take, and every sample fits.
        order: Which samples, in what sequence. None: `Shuffle`; of a `ShardIndex`, `Blocks`, which
            reads a few shards at a time, and is the only order for one.
        seed: Zero or larger.
        world_size: Ranks that share each update.
        accumulate: Batches of one update on each rank; beside `batch_size`, also at present.
        step_tokens: Aim at this many real tokens an update, by choosing `accumulate`. It is a
            setting of the optimizer; the budget of the batching is one of memory.
        cost: What balance between ranks is measured in: ``"padded"``, ``"quadratic"`` (squared
            lengths), or a function of lengths. None: batches are mixed, not balanced.
        last: What becomes of samples that are too few for a whole last update, however batches
            are split. ``"short"``: the last update has fewer batches, as many on every rank;
            if even those cannot be filled, a few samples are repeated, with a warning.
            ``"drop"``: they are left out and listed in ``plan.dropped["last"]``; in a shuffled
            order, other ones in each epoch. ``"repeat"``: the update is filled with repeated
            samples, listed in ``plan.repeated``.
        empty: What becomes of samples of length 0. ``"drop"``: all plans are without them, and list
            them in ``plan.dropped["empty"]``; indices still mean rows of the data. ``"one"``: they
            count as length 1. In `lengths` they have length 1 either way.
        within: [n], the group of each sample, an integer or a name (its source, its language): all
            samples of a batch are of one group.
        unique: [n], the key of each sample: no two samples of a batch have the same one, as losses
            need that contrast the samples of a batch. Those of key -1 may meet any others.
        together: [n], the group of each sample (a pair, a dialogue, the rollouts of a prompt): the
            samples of a group stay in one batch, in the order of the data, also where batches are
            split for equal counts or a smaller budget. Those of group -1 are on their own. With
            `unique`, samples of one group may share a key.

    Attributes:
        accumulate: As given, or as found for `step_tokens`.
        left_out: int64[k], the samples that `without` leaves out, rising.

    Raises:
        LengthsError: If the lengths are not positive whole numbers, [n].
        BudgetError: If `max_tokens` and `batching` are both given, or neither and no `batch_size`;
            a sample alone or a group that stays together exceeds the budget and no policy was
            chosen; or settings contradict one another.
        PlanError: If an order is none, would hold no sample, too few for one update under
            ``last="drop"``, or does not keep the groups of `together` whole.

    Example:
        >>> planner = Planner([5, 3, 8, 2, 7, 1], max_tokens=10, world_size=2)
        >>> len(planner), len(planner(0)), len(planner(1))
        (4, 4, 4)
        >>> len(Planner([5, 3, 8, 2, 7, 1], batch_size=2))
        3
    """

    def __init__(
        self,
        lengths: IntoLengths = (),  # an error, rather than Python's bare one
        *,
        max_tokens: int | None = None,
        batching: Batching | BatchingFunction | None = None,
        batch_size: int | None = None,
        order: Order | None = None,
        seed: int = 0,
        world_size: int = 1,
        accumulate: int | None = None,
        step_tokens: int | None = None,
        cost: Cost | None = None,
        last: Last = "short",
        empty: Empty = "error",
        within: npt.ArrayLike | None = None,
        unique: npt.ArrayLike | None = None,
        together: npt.ArrayLike | None = None,
    ) -> None:
        usual = Blocks() if isinstance(lengths, ShardIndex) else Shuffle()
        self.order: Order = usual if order is None else as_order(order)
        self.seed = whole_number(None, "seed", seed, least=0, most=2**4096, error=PlanError)
        self.cost = check_cost(cost)
        check_choice("Planner", "last", last, ("short", "drop", "repeat"))
        self.last: Last = last
        check_choice("Planner", "empty", empty, ("error", "drop", "one"))
        self._index = lengths if isinstance(lengths, LengthIndex | ShardIndex) else None
        if isinstance(lengths, LengthIndex | ShardIndex):
            known: LengthIndex | ShardIndex | Lengths = lengths
            self.num_samples, self._empty = lengths.num_samples, np.empty(0, dtype=np.int64)
        else:
            lengths, self._empty = without_empty(lengths, empty)
            known = Lengths.of(lengths)
            if known.array.flags.writeable:  # the caller may write to its array later
                known = Lengths(known.array.copy())
            self.lengths, self.num_samples = known.array, len(known.array)
        self._fingerprint = known.fingerprint
        full = np.delete(self.lengths, self._empty, axis=0) if self._empty.size else known
        self._constraints = _constraints(within, unique, together, self.num_samples)
        self.batching, self.step_tokens = sized(
            full,
            together=None if self._constraints is None else self._constraints.together,
            max_tokens=max_tokens,
            batching=batching,
            batch_size=batch_size,
            step_tokens=step_tokens,
            world_size=world_size,
            accumulate=accumulate,
        )
        self.left_out = np.empty(0, dtype=np.int64)
        if self._empty.size and together is not None:
            raise PlanError(
                f'empty="drop" would tear {self._empty.size} samples out of the groups of '
                'together=. Choose empty="one", or leave such groups out of the data.'
            )
        self._functions = self._made_functions(known)
        self._resize(world_size, accumulate)

    def __len__(self) -> int:
        """Count the batches of an epoch: the same for every epoch."""
        return self._num_batches

    def __call__(self, epoch: int) -> Plan:
        """Plan one epoch.

        An epoch that would need more batches than the others is planned with other random numbers
        or in another sequence. If it still needs more, some samples are left out, with a warning,
        and listed in ``plan.dropped["deferred"]``. An epoch of too few samples repeats some, listed
        in ``plan.repeated``.

        Args:
            epoch: Zero or larger.

        Returns:
            The global plan, of all ranks, in the sequence of training; ``plan.shard(rank,
            world_size)`` is one rank's part. O(1) where batches are computed when asked for, O(n)
            where the plan holds arrays.

        Raises:
            PlanError: If the epoch is no whole number, or a batching is no pure function.
        """
        epoch = whole_number(None, "epoch", epoch, least=0, most=MOST_EPOCHS, error=PlanError)
        plan = self._planned(epoch)
        if not self.left_out.size:
            return plan
        return without_samples(plan, self.left_out, self.world_size * self.accumulate)

    def _planned(self, epoch: int) -> Plan:
        plan = None if self._computed is None else self._computed(self._origin(epoch))
        if plan is not None:
            return plan
        laid = self._epochs.lay(epoch, self._room)
        note = laid.note
        if laid.repeated.size == laid.draft.indices.size:
            note = (
                f"epoch {epoch} would hold no sample: it repeats others, listed in plan.repeated."
            )
        if note is not None:
            self._warn(note)
        return self._epochs.plan(laid, len(self), self._origin(epoch))

    def __repr__(self) -> str:
        """Describe the planner in a line."""
        return (
            f"Planner({self.num_samples} lengths, {self.batching}, {self.order}, "
            f"seed={self.seed}, world_size={self.world_size}, accumulate={self.accumulate}, "
            f"{len(self)} batches an epoch)"
        )

    @cached_property
    def lengths(self) -> LengthArray:
        """The length of every sample, integer[n] or [n, k]; of an index, made when asked for."""
        if self._index is None:
            raise AttributeError("lengths")  # set by __init__
        return self._index.lengths()

    @property
    def given(self) -> LengthIndex | ShardIndex | Lengths:
        """What the planner was made of, as ``plan.stats`` and another planner take it."""
        return Lengths(self.lengths) if self._index is None else self._index

    @cached_property
    def _epochs(self) -> Epochs:
        """The epochs as arrays, for orders and batchings that need more than lengths."""
        batching = self.batching
        items = fit_items(self.lengths, batching.layout, batching.oversize)
        if self._empty.size:
            items = replace(items, dropped=np.union1d(items.dropped, self._empty))
        if self._constraints is not None:
            from batchwright.batching.constrained import constrained  # few programs need it

            batching, items = constrained(batching, self.order, items, self._constraints)
        return Epochs(
            self.order, batching, items, totals(self.lengths), self.seed, self.cost, self._empty
        )

    def _made_functions(self, lengths: LengthIndex | ShardIndex | Lengths) -> Functions | None:
        """Return the epochs as functions, where the settings allow it."""
        others = [f"cost={self.cost!r}"] if self.cost is not None else []
        others += ["constraints"] if self._constraints is not None else []
        if isinstance(lengths, ShardIndex):
            others += [f"last={self.last!r}"] if self.last != "short" else []
            return of_shards(lengths, self.order, self.batching, self.seed, others)
        if others or self._empty.size:
            return None
        return Functions.of(lengths, self.order, self.batching, self.seed)

    @property
    def fingerprint(self) -> str:
        """Hash of the lengths, 32 hexadecimal digits."""
        return self._fingerprint

    def resized(self, world_size: int, accumulate: int | None = None) -> Planner:
        """Plan the same epochs for another number of ranks.

        Args:
            world_size: Ranks that share each update.
            accumulate: Batches of one update on each rank. Where `step_tokens` was given, the epoch
                keeps its number of updates, if it fits into them. None: chosen for `step_tokens`
                if that was given, else as it is.

        Returns:
            A planner over the same lengths.
        """
        if accumulate is None and self.step_tokens is None:
            accumulate = self.accumulate
        other = copy.copy(self)
        other._resize(world_size, accumulate)  # noqa: SLF001
        return other

    def samples_of(self, epoch: int, update: int, rank: int | None = None) -> IntArray:
        """Return the samples of one update.

        Args:
            epoch: Zero or larger.
            update: From 0.
            rank: The rank whose samples are wanted. None: all, in the sequence of the plan.

        Returns:
            int64[m]. O(m) where epochs are computed on demand.

        Raises:
            PlanError: If the epoch has no such update, or the update no such rank.

        Example:
            >>> planner = Planner([5, 3, 8, 2], max_tokens=8, world_size=2)
            >>> sorted(planner.samples_of(0, 0).tolist() + planner.samples_of(0, 1).tolist())
            [0, 1, 2, 3]
        """
        size, last = self.world_size * self.accumulate, self.world_size - 1
        most = -(-len(self) // size) - 1
        update = whole_number(None, "update", update, least=0, most=most, error=PlanError)
        if rank is None:
            rank, step = 0, 1
        else:
            rank = whole_number(None, "rank", rank, least=0, most=last, error=PlanError)
            step = self.world_size
        begin, end = update * size + rank, min((update + 1) * size, len(self))
        return self(epoch).batches.select(range(begin, end, step)).arrays().indices

    def without(self, samples: npt.ArrayLike) -> Planner:
        """Leave samples out of all epochs; everything else stays as it is.

        Epochs have the same batches otherwise, and as many; those that held the samples are
        smaller. A batch that would be empty takes a sample of the largest batch of its update; if
        there is none with two, it repeats one, listed in ``plan.repeated``. A sampler of the result
        accepts states that were saved without it.

        Args:
            samples: int64[k], which ones. ``plan.dropped["without"]`` lists them.

        Returns:
            A planner of the same settings. Its first epoch is O(n), others at worst.

        Raises:
            PlanError: If there are no such samples; or in an epoch that would have no other.

        Example:
            >>> planner = Planner([5, 3, 8, 2, 4, 4], max_tokens=16)
            >>> [sorted(batch.tolist()) for batch in planner(0)]
            [[0, 2], [1, 3, 4, 5]]
            >>> [sorted(batch.tolist()) for batch in planner.without([3])(0)]
            [[0, 2], [1, 4, 5]]
        """
        gone = frozen(samples, "samples")
        if gone.size and not 0 <= int(gone.min()) <= int(gone.max()) < self.num_samples:
            raise PlanError(f"samples {gone.min()} to {gone.max()} of {self.num_samples}.")
        other = copy.copy(self)
        other.left_out = np.union1d(self.left_out, gone)
        return other

    def _resize(self, world_size: int, accumulate: int | None) -> None:
        self.world_size = whole_number(None, "world_size", world_size)
        self._has_warned = False
        source = self._functions or self._epochs
        self.accumulate, self._num_batches, counted = sized_epoch(
            source, self.world_size, accumulate, step_tokens=self.step_tokens, last=self.last
        )
        self._computed: Sized | None = None
        # Where samples are too few for whole updates, some are repeated or left out, by name.
        if self._functions is not None and counted.batches <= len(self) <= counted.samples:
            self._computed = self._functions.sized(len(self), self.world_size, self.accumulate)
        if isinstance(self._index, ShardIndex) and self._computed is None:
            raise PlanError(
                f"{counted.samples} samples in shards are too few for {len(self)} batches. Plan "
                "with fewer ranks, or from LengthIndex.build(index.lengths())."
            )
        # An epoch may have more before batches that fill no update are left out.
        most = max(counted.batches, len(self)) if self.last == "drop" else len(self)
        self._room = Room(most, fill=len(self), multiple=self.world_size * self.accumulate)
        lacking = len(self) - counted.samples
        if lacking > 0 and self.last == "short":
            self._warn(
                f"{counted.samples} samples cannot fill {len(self)} batches, for world_size="
                f"{self.world_size}: an epoch repeats {lacking} (plan.repeated lists them). "
                'Choose last="drop" to leave samples out instead, last="repeat" to fill the last '
                "update too, or fewer ranks."
            )

    def _warn(self, message: str) -> None:
        if not self._has_warned:
            warnings.warn(message, stacklevel=4)  # the user's line
        self._has_warned = True

    def _origin(self, epoch: int) -> Origin:
        return Origin(
            self.num_samples,
            self._fingerprint,
            self.seed,
            epoch,
            self.world_size,
            self.accumulate,
            self.last,
        )


def _constraints(
    within: npt.ArrayLike | None,
    unique: npt.ArrayLike | None,
    together: npt.ArrayLike | None,
    num_samples: int,
) -> Constraints | None:
    if within is None and unique is None and together is None:
        return None
    from batchwright.constraints import Constraints  # few programs need it

    return Constraints.of(within, unique, together, num_samples)


def plan(
    lengths: IntoLengths = (),
    *,
    max_tokens: int | None = None,
    batching: Batching | BatchingFunction | None = None,
    batch_size: int | None = None,
    order: Order | None = None,
    seed: int = 0,
    epoch: int = 0,
    world_size: int = 1,
    accumulate: int | None = None,
    step_tokens: int | None = None,
    cost: Cost | None = None,
    last: Last = "short",
    empty: Empty = "error",
    within: npt.ArrayLike | None = None,
    unique: npt.ArrayLike | None = None,
    together: npt.ArrayLike | None = None,
) -> Plan:
    """Plan one epoch: the plan that a `Planner` of the same arguments makes of it.

    Example:
        >>> plan([5, 3, 8, 2, 7, 1], max_tokens=10).stats([5, 3, 8, 2, 7, 1]).max_batch_tokens
        10
    """
    planner = Planner(
        lengths,
        max_tokens=max_tokens,
        batching=batching,
        batch_size=batch_size,
        order=order,
        seed=seed,
        world_size=world_size,
        accumulate=accumulate,
        step_tokens=step_tokens,
        cost=cost,
        last=last,
        empty=empty,
        within=within,
        unique=unique,
        together=together,
    )
    return planner(epoch)
