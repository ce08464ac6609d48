"""What was seen of a training run, as frozen values: the input of every check."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain

import numpy as np

from batchwright.typing import IntArray


@dataclass(frozen=True, eq=False)
class Column:
    """A further column of a batch that is padded separately, such as targets of a translation."""

    width: int  # tokens of a row, padding included
    lengths: IntArray  # int64[rows], real tokens


@dataclass(frozen=True, eq=False)
class Batch:
    """A batch that a loader handed to the training loop."""

    samples: IntArray | None  # int64[rows]: indices, or hashes of contents. None: not identified
    rows: int
    width: int  # tokens of a row, padding included; 1 if samples have no length
    lengths: IntArray | None = None  # int64[rows], real tokens. None: padding was not looked for
    labels: IntArray | None = None  # int64[rows], a class of each row
    time: float = 0.0  # when it was handed out, in seconds; one clock for all ranks of a machine
    wait: float = 0.0  # seconds that the loop waited for it
    counted_padding: int = 0  # labels on padding that are not left out of a loss
    is_packed: bool = False  # whether rows hold several documents
    is_separated: bool = True  # whether documents of a row cannot attend to one another
    name: str = ""  # of the column of `width` and `lengths`, if there are others
    others: Mapping[str, Column] = field(default_factory=dict)  # by their names

    @property
    def padded_tokens(self) -> int:
        """Rows × longest row."""
        return self.rows * self.width

    @property
    def tokens(self) -> int:
        """Tokens that are not padding."""
        return self.padded_tokens if self.lengths is None else int(self.lengths.sum())

    @property
    def all_padded_tokens(self) -> int:
        """Padded tokens of all columns together."""
        return self.rows * (self.width + sum(each.width for each in self.others.values()))

    @property
    def all_tokens(self) -> int:
        """Tokens of all columns that are not padding."""
        return self.tokens + sum(int(each.lengths.sum()) for each in self.others.values())


@dataclass(frozen=True, eq=False)
class Pass:
    """One pass over a loader: an epoch, or the part of one that was seen."""

    batches: tuple[Batch, ...]
    is_complete: bool  # whether the loader reached its end

    @cached_property
    def samples(self) -> IntArray:
        """int64[n]: the identified samples, in the order in which they were seen."""
        known = [each.samples for each in self.batches if each.samples is not None]
        return np.concatenate(known) if known else np.empty(0, np.int64)

    @property
    def is_identified(self) -> bool:
        """Whether the samples of every batch are known."""
        return all(each.samples is not None for each in self.batches)


@dataclass(frozen=True, eq=False)
class Loader:
    """A loader, and the passes over it."""

    passes: tuple[Pass, ...]
    trains: bool = True  # whether gradients were computed on its batches
    num_samples: int | None = None  # of its data set. None: unknown, as for a stream
    has_indices: bool = True  # whether samples are known by index; else by a hash of their content
    num_batches: int | None = None  # its length. None: it has none
    batch_size: int | None = None  # the argument it was made with
    drop_last: bool = False
    num_workers: int = 0
    sampler: str = ""  # name of the class
    batch_sampler: str = ""
    dataset: str = ""
    is_planned: bool = False  # whether Batchwright plans its batches
    replaces: bool = False  # whether its sampler draws with replacement, or by weights
    is_shuffled: bool | None = None  # according to its sampler or stream. None: unknown

    @property
    def batches(self) -> Iterator[Batch]:
        """All batches, in the order in which they were seen."""
        return chain.from_iterable(each.batches for each in self.passes)


@dataclass(frozen=True)
class Backward:
    """A call of `backward`."""

    loss: float | None = None  # what it was called on, divided by the loss scale
    reduction: str | None = None  # ``"mean"`` or ``"sum"``. None: not a known loss
    factor: float | None = None  # that the loss was multiplied by, divided by the loss scale
    counted: int | None = None  # targets in the loss: tokens, or rows
    part: float | None = None  # its factor within a sum of losses. None: not in a sum

    @property
    def weight(self) -> float | None:
        """Of one target in the gradient; None if unknown."""
        if self.factor is None or self.reduction != "mean":
            return self.factor if self.reduction == "sum" else None
        return self.factor / self.counted if self.counted else None


@dataclass(frozen=True, eq=False)
class Update:
    """An optimizer step, applied or skipped, and what led to it."""

    batches: tuple[Batch, ...]  # of the training loader, since the previous update
    backwards: tuple[Backward, ...]
    start: float = 0.0  # seconds, on the clock of the batches
    end: float = 0.0
    forward: float | None = None  # seconds from the last batch to the last backward: own work
    was_skipped: bool = False  # by a gradient scaler, because gradients were not finite
    loss_scale: float | None = None  # None: no scaler
    schedules: int = 0  # steps of learning rate schedules between it and the next update
    rate: float | None = None  # the learning rate
    peak: int | None = None  # bytes, the most that were in use so far
    is_stale: bool = False  # whether gradients of an earlier update were still there
    clips_scaled: bool = False  # whether gradients were clipped before they were unscaled
    gradient_error: float | None = None  # relative to the gradient of the mean over all targets
    computed: float | None = None  # when its last backward ended, on that clock. None: unknown

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end - self.start


@dataclass(frozen=True)
class Products:
    """Matrix products in one forward pass, by the format of their results."""

    flops: Mapping[str, float] = field(default_factory=dict)  # "fp32" → about how many
    autocast: str | None = None  # the format of autocast. None: it was off
    largest: Mapping[str, str] = field(default_factory=dict)  # format → name of its largest layer
    parameters: str = "fp32"  # the format of most parameters
    is_training: bool = True  # the mode of the model

    def share(self, *formats: str) -> float:
        """Return the share of the work in these formats; 0 if there was none."""
        total = sum(self.flops.values())
        return sum(self.flops.get(each, 0.0) for each in formats) / total if total else 0.0


@dataclass(frozen=True, eq=False)
class Rank:
    """What one training process has done."""

    rank: int
    world_size: int
    loaders: tuple[Loader, ...]
    updates: tuple[Update, ...]
    products: Products | None = None
    device: str = "cpu"
    fast_formats: tuple[str, ...] = ()  # 16-bit formats in which the device multiplies faster
    compiles: bool = False  # whether torch.compile is in use
    num_compilations: int = 0
    saves: tuple[int, ...] = ()  # updates after which a checkpoint was written
    # Files of checkpoints, each with the update after which it was written; and those that were
    # read before the first update. A file is identified by its inode, time and size.
    written: Mapping[str, int] = field(default_factory=dict)
    read: tuple[str, ...] = ()
    ended: str = "run"  # "run", "updates", "epochs", "killed": what ended the watching
    framework: str = "torch"  # "torch", "transformers", "trl", "accelerate", "lightning", "keras"
    overhead: float | None = None  # seconds that even the smallest batch takes, about
    # Name and steps of each optimizer with its own backward passes. An update is a step of one of
    # them: the first, until another takes its place.
    optimizers: tuple[tuple[str, int], ...] = ()

    @property
    def trained(self) -> Loader | None:
        """The loader that is trained on; if there are several, the one with the most batches."""
        found = [each for each in self.loaders if each.trains]
        return max(found, key=lambda each: sum(1 for _ in each.batches), default=None)

    @property
    def seconds(self) -> float:
        """From the first update to the last."""
        return self.updates[-1].end - self.updates[0].start if self.updates else 0.0


@dataclass(frozen=True, eq=False)
class Run:
    """What was seen of a run: its ranks, by number."""

    ranks: tuple[Rank, ...]
    command: Sequence[str] = ()
    seconds: float = 0.0  # that it was watched
    exit_code: int | None = None  # None: stopped by the doctor
    # What ended it: "run", "updates", "epochs", "seconds", "interrupt", or "hang": a rank ended,
    # and the others waited for it.
    stopped: str = "run"
    notes: tuple[str, ...] = ()  # what could not be watched
    without_torch: tuple[str, ...] = ()  # the interpreters that ran, if none of them has torch

    @property
    def first(self) -> Rank | None:
        """The first rank; None if nothing trained."""
        return self.ranks[0] if self.ranks else None

    @property
    def has_failed(self) -> bool:
        """Whether the command failed by itself, not because the doctor ended it."""
        is_killed = any(each.ended == "killed" for each in self.ranks)
        return bool(self.exit_code) and self.stopped == "run" and not is_killed

    @property
    def world_size(self) -> int:
        """Ranks that train together."""
        return max((each.world_size for each in self.ranks), default=1)

    @property
    def framework(self) -> str:
        """The framework that trains."""
        return self.ranks[0].framework if self.ranks else "torch"

    def passes(self) -> Iterator[tuple[Pass, ...]]:
        """Yield for each epoch the passes of all ranks that made one, in the order of ranks."""
        loaders = [each.trained for each in self.ranks]
        count = max((len(each.passes) for each in loaders if each is not None), default=0)
        for epoch in range(count):
            yield tuple(
                each.passes[epoch]
                for each in loaders
                if each is not None and epoch < len(each.passes)
            )
