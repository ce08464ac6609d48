"""What planned batches would gain: computed by the planner on the lengths that were seen."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO

import numpy as np

from batchwright._files import write_bytes
from batchwright._format import percent, plural
from batchwright.budgets import suggest
from batchwright.doctor.records import Batch, Loader, Run
from batchwright.doctor.timing import MOST_DOUBT, timing_of
from batchwright.errors import BatchwrightError, LengthsError
from batchwright.planner import Planner
from batchwright.plans import Plan
from batchwright.stats.baseline import are_unlike, keeping_batches, smaller_batches
from batchwright.typing import IntArray

MOST_PLANNED = 200_000
"""Of more samples, this number is planned: its padding is the same or hardly more."""

_MULTIPLES = (256, 128, 64, 32, 16, 8, 4)
"""Collators pad rows to multiples of these."""


@dataclass(frozen=True)
class Gain:
    """What planned batches would change in a run, at the same tokens per update."""

    batch_size: int  # samples of a batch on each rank, now
    accumulate: int  # batches of an update on each rank, now
    world_size: int
    padding: float  # share of the tokens, now; over all padded columns, as `planned_padding`
    planned_batch_size: int  # to plan with: `Planner(lengths, batch_size=…)`
    planned_accumulate: int  # and `accumulate=`: batches of a planned update on each rank
    planned_padding: float
    max_tokens: int  # the most in a planned batch, padding included
    step_tokens: int  # real tokens of an update, on average
    dispersion: float  # length mix of planned updates: 1 is a plain shuffle
    longest: int  # tokens of the longest sample
    is_stream: bool = False  # whether lengths are only known when samples arrive
    padded_to: int | None = None  # all rows are padded to this, which is longer than most samples
    tokens_per_second: float | None = None  # real ones, of all ranks, now
    planned_tokens_per_second: float | None = None  # predicted. None: cannot be predicted
    num_updates: int = 0  # updates whose times the prediction uses
    spread: float = 0.0  # relative spread of these times around the fit to shapes

    @property
    def saved(self) -> float:
        """Share of the computed tokens that would not be computed."""
        return 1 - (1 - self.padding) / (1 - self.planned_padding)

    @property
    def speed(self) -> float | None:
        """Real tokens per second, relative to now; None: unknown."""
        if not self.tokens_per_second or self.planned_tokens_per_second is None:
            return None
        return self.planned_tokens_per_second / self.tokens_per_second

    @property
    def saved_time(self) -> float:
        """Share of the time that would be saved; if that is unknown, of the computed tokens."""
        return max(0.0, self.saved if self.speed is None else 1 - 1 / self.speed)

    @property
    def is_cut(self) -> bool:
        """Whether updates are cut into more batches than now, so that each mixes lengths."""
        return self.planned_batch_size != self.batch_size

    @property
    def rests_on(self) -> str:
        """Say in a sentence what the speed is predicted from; empty if it is unknown."""
        if self.speed is None:
            return ""
        return (
            f"Predicted from the times of {plural(self.num_updates, 'update')}, with a typical "
            f"error of {percent(self.spread)}."
        )


def lengths_seen(run: Run) -> IntArray:
    """Return the lengths of the samples that were trained on, each sample once.

    Args:
        run: What was seen.

    Returns:
        int64[n], at least 1; in the order of indices if they are known, else those that were seen
        of the first epoch. Empty if samples have no length. O(samples seen).

    Example:
        >>> from batchwright.doctor.records import Pass, Rank
        >>> batch = Batch(np.array([1, 0]), 2, 5, np.array([5, 3]))
        >>> loader = Loader((Pass((batch,), True), Pass((batch,), True)))
        >>> lengths_seen(Run((Rank(0, 1, (loader,), ()),))).tolist()
        [3, 5]
    """
    return _seen(run)[0]


def _seen(run: Run) -> tuple[IntArray, Mapping[str, IntArray]]:
    """Return the lengths of samples, and their lengths in further columns, in the same order."""
    loaders = _loaders(run)
    is_by_index = all(each.has_indices for each in loaders)
    batches = [
        batch
        for loader in loaders
        for each in (loader.passes if is_by_index else loader.passes[:1])
        for batch in each.batches
        if _has_lengths(batch)
    ]
    lengths = [each.lengths for each in batches if each.lengths is not None]
    if not lengths:
        return np.empty(0, dtype=np.int64), {}
    found = np.maximum(np.concatenate(lengths).astype(np.int64), 1)
    samples = [each.samples for each in batches if each.samples is not None]
    place = np.arange(found.size)
    if is_by_index and all(_is_by_index(each) for each in batches):
        _, chosen, place = np.unique(
            np.concatenate(samples), return_index=True, return_inverse=True
        )
        found = found[chosen]
    return found, _others(batches, found, place)


def _others(batches: Sequence[Batch], lengths: IntArray, place: IntArray) -> dict[str, IntArray]:
    """Return the lengths of further columns.

    A column is unknown in the first batches if it happens to be as wide as another there. Then its
    lengths are estimated from its average ratio to the lengths of samples.

    Args:
        batches: The batches with the rows.
        lengths: int64[n], of samples.
        place: int64[rows], the sample of each row.
    """
    found = {}
    for name in dict.fromkeys(name for each in batches for name in each.others):
        rows = [
            each.others[name].lengths if name in each.others else np.full(each.rows, -1)
            for each in batches
        ]
        column = np.full(lengths.size, -1)
        np.maximum.at(column, place, np.concatenate(rows))
        is_known = column >= 0
        if 2 * np.count_nonzero(is_known) >= column.size:
            ratio = column[is_known].sum() / lengths[is_known].sum()
            found[name] = np.where(is_known, column, np.rint(ratio * lengths).astype(np.int64))
    return found


def are_all(run: Run, lengths: IntArray) -> bool:
    """Say whether the lengths that were seen are those of the whole data set, by index."""
    loaders = _loaders(run)
    known = all(each.has_indices and each.num_samples == lengths.size for each in loaders)
    return bool(loaders) and known and all(_is_by_index(each) for each in looked_into(run))


def save_lengths(run: Run, path: str | os.PathLike[str]) -> int:
    """Save the lengths that were seen as `.npy`, for `batchwright advise` and for a planner.

    Args:
        run: What was seen.
        path: Where to write; a file that is there is replaced.

    Returns:
        How many samples have one. If none has, nothing is written.

    Raises:
        LengthsError: If the file cannot be written.
    """
    lengths = lengths_seen(run)
    if lengths.size:
        content = BytesIO()
        np.save(content, lengths, allow_pickle=False)
        write_bytes(path, content.getvalue(), LengthsError)
    return int(lengths.size)


def padding_of(run: Run) -> float | None:
    """Return the share of padding in the batches that were trained on; None: unknown."""
    batches = looked_into(run)
    padded = sum(each.all_padded_tokens for each in batches)
    return 1 - sum(each.all_tokens for each in batches) / padded if padded else None


def padding_by_column(run: Run) -> Mapping[str, float]:
    """Return the share of padding of each column, by its name; empty where there is only one.

    A column of a tuple is known by its place: ``"batch[1]"``.
    """
    padded: dict[str, int] = {}
    tokens: dict[str, int] = {}
    for each in looked_into(run):
        if each.others:
            columns = {each.name: (each.width, each.tokens)} | {
                name: (column.width, int(column.lengths.sum()))
                for name, column in each.others.items()
            }
            for name, (width, real) in columns.items():
                padded[name] = padded.get(name, 0) + each.rows * width
                tokens[name] = tokens.get(name, 0) + real
    return {_shown(name): 1 - tokens[name] / padded[name] for name in padded}


def _shown(name: str) -> str:
    first, *others = name.split(".")
    return ".".join([f"batch[{first}]" if first.isdecimal() else first, *others])


def looked_into(run: Run) -> list[Batch]:
    """Return the batches that were trained on whose lengths are known, over all ranks."""
    return [each for loader in _loaders(run) for each in loader.batches if _has_lengths(each)]


def gain_of(run: Run) -> Gain | None:
    """Compute what planned batches would change in a run.

    The lengths that were seen are planned, with as many tokens per update as now. If updates of few
    planned batches would be unlike one another in length, they are cut into more batches. If only
    part of an epoch was seen, its lengths are repeated up to the size of the data set.

    Args:
        run: What was seen.

    Returns:
        None if samples have no length, batches are planned or packed already, or the lengths
        cannot be planned. O(n log n) in the samples, of at most `MOST_PLANNED`.
    """
    batches, loaders = looked_into(run), _loaders(run)
    (lengths, others), padding = _seen(run), padding_of(run)
    if padding is None or not lengths.size:
        return None
    if any(each.is_planned for each in loaders) or any(each.is_packed for each in batches):
        return None
    known = [each.num_samples for each in loaders if each.num_samples is not None]
    count = max(known, default=lengths.size)
    if not are_all(run, lengths):
        size = min(max(count, lengths.size), MOST_PLANNED)
        lengths = np.resize(lengths, size)
        others = {name: np.resize(column, size) for name, column in others.items()}
    settings = _Settings(
        _rows_of(batches),
        _accumulate_of(run),
        run.world_size,
        run.framework in {"transformers", "trl"},
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # only figures are wanted
            chosen, planner, plan = _planned(lengths, settings)
    except BatchwrightError:
        return None
    multiple, padded_to = _widths_of(batches)
    sizes, entries = plan.sizes, plan.entry_lengths(lengths)
    widths = _planned_widths(entries, plan, multiple)
    real, padded = int(entries.sum()), int((sizes * widths).sum())
    for name, column in others.items():
        own = column[plan.indices]
        multiple = _widths_of(batches, name)[0]
        real += int(own.sum())
        padded += int((sizes * _planned_widths(own, plan, multiple)).sum())
    stats = plan.stats(lengths)
    gain = Gain(
        batch_size=settings.batch_size,
        accumulate=settings.accumulate,
        world_size=settings.world_size,
        padding=padding,
        planned_batch_size=chosen.batch_size,
        planned_accumulate=chosen.accumulate,
        planned_padding=1 - real / padded,
        max_tokens=int(plan.layout.budget or stats.max_batch_tokens),
        step_tokens=round(stats.step_tokens_mean),
        dispersion=stats.dispersion,
        longest=int(lengths.max()),
        is_stream=not known,
        padded_to=padded_to,
    )
    timing = timing_of(run)
    if timing is None:
        return gain
    found = timing.predicted(
        sizes, widths, world_size=settings.world_size, accumulate=planner.accumulate
    )
    return replace(
        gain,
        tokens_per_second=timing.tokens_per_second,
        planned_tokens_per_second=(
            None if found is None or found[1] > MOST_DOUBT else float(entries.sum()) / found[0]
        ),
        num_updates=timing.num_updates,
        spread=timing.spread,
    )


@dataclass(frozen=True)
class _Settings:
    """The settings of a planner."""

    batch_size: int
    accumulate: int
    world_size: int
    by_trainer: bool  # only `use_plan` may choose how many batches make an update

    def planner(self, lengths: IntArray) -> Planner:
        """Make the planner that the cure makes."""
        ranks, slots, size = self.world_size, self.accumulate, self.batch_size
        if self.by_trainer:
            tokens = suggest(lengths, batch_size=size).tokens_of(slots * ranks)
            chosen = Planner(lengths, batch_size=size, step_tokens=tokens, world_size=ranks)
            return keeping_batches(chosen, slots)
        kept = slots if slots > 1 else None
        return Planner(lengths, batch_size=size, accumulate=kept, world_size=ranks)


def _planned(lengths: IntArray, settings: _Settings) -> tuple[_Settings, Planner, Plan]:
    """Plan an epoch; cut updates into more batches if they would be unlike one another."""
    planner = settings.planner(lengths)
    plan = planner(0)
    stats = plan.stats(lengths)
    cut = smaller_batches(plan, plan.entry_lengths(lengths), stats)
    if cut is None or not are_unlike(stats.dispersion, cut.dispersion):
        return settings, planner, plan
    rows = settings.batch_size * settings.accumulate
    size = max(1, round(rows / cut.accumulate))
    if size >= settings.batch_size:
        return settings, planner, plan
    slots = max(cut.accumulate, round(rows / size))
    smaller = replace(settings, batch_size=size, accumulate=slots)
    planner = smaller.planner(lengths)
    return smaller, planner, planner(0)


def _loaders(run: Run) -> list[Loader]:
    """Return the loader that each rank trains on."""
    found = [each.trained for each in run.ranks]
    return [each for each in found if each is not None]


def _has_lengths(batch: Batch) -> bool:
    return batch.lengths is not None and batch.width > 1 and batch.lengths.size == batch.rows


def _is_by_index(batch: Batch) -> bool:
    """Say whether each row of a batch is a sample that is known."""
    return batch.samples is not None and batch.samples.size == batch.rows


def _rows_of(batches: Sequence[Batch]) -> int:
    """Return the batch size: that of most batches, or the mean if they differ."""
    rows = np.array([each.rows for each in batches])
    most = int(rows.max())
    return most if np.count_nonzero(rows == most) * 2 >= rows.size else round(float(rows.mean()))


def _accumulate_of(run: Run) -> int:
    """Return the batches of an update on each rank."""
    counts = [len(update.batches) for each in run.ranks for update in each.updates]
    counts = [each for each in counts if each]
    return max(1, int(np.median(counts))) if counts else 1


def _planned_widths(lengths: IntArray, plan: Plan, multiple: int) -> IntArray:
    """Return the width of each planned batch, from the lengths of its samples."""
    longest = np.maximum.reduceat(lengths, plan.offsets[:-1])
    widths: IntArray = -(-longest // multiple) * multiple
    return widths


def _widths_of(batches: Sequence[Batch], column: str | None = None) -> tuple[int, int | None]:
    """Return the multiple that rows are padded to, and the width of all rows if it is fixed.

    Args:
        batches: Batches whose lengths are known.
        column: The name of a further column. None: the first one.
    """
    if column is None:
        known = [(each.width, each.lengths) for each in batches if each.lengths is not None]
    else:
        found = (each.others[column] for each in batches if column in each.others)
        known = [(each.width, each.lengths) for each in found]
    widths = np.array([width for width, _ in known])
    longest = np.array([lengths.max(initial=0) for _, lengths in known])
    wider = widths > longest
    if len(known) > 1 and (widths == widths[0]).all() and 2 * np.count_nonzero(wider) >= wider.size:
        return 1, int(widths[0])
    for multiple in _MULTIPLES:
        if wider.any() and not (widths % multiple).any() and (widths - longest < multiple).all():
            return multiple, None
    return 1, None
