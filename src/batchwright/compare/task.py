"""A training job, described once, so that it can be trained in many ways."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import sqrt
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Subset

from batchwright._checks import check_choice, keep_whole
from batchwright._format import one_line
from batchwright._random import generator
from batchwright.budgets import suggest
from batchwright.errors import TaskError
from batchwright.lengths import as_lengths, totals
from batchwright.torch.update.passes import LossSum
from batchwright.typing import IntoLengths, LengthArray

Collate: TypeAlias = Callable[[list[Any]], Any]
"""The samples of a batch → the batch."""

Difficulty: TypeAlias = npt.ArrayLike | Callable[[], npt.ArrayLike]
"""float[n], higher is harder; or a function that computes it when it is first needed."""

LARGEST = 2**53  # as of a length

_FUNCTIONS = ("collate", "model", "optimizer", "loss_sum", "evaluate", "schedule")

WARM_UP = 0.2
"""Share of a run in which the default learning rate rises."""


def warm_up_then_decay(progress: float) -> float:
    """Return the share of the highest learning rate at a point of the run.

    A linear rise, then an inverse square root, which does not depend on where the run ends: an arm
    may train a little longer than planned (Vaswani et al., *Attention Is All You Need*, 2017).

    Example:
        >>> [round(warm_up_then_decay(progress), 2) for progress in (0.1, 0.2, 0.8)]
        [0.5, 1.0, 0.5]
    """
    return min(progress / WARM_UP, sqrt(WARM_UP / progress)) if progress > 0 else 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """A training job: what is trained, on which samples, and how it is evaluated.

    All arguments are keywords. A task file defines ``task``: a `Task`, or a function
    ``task(*, quick)`` that returns one. `batchwright new-task` writes a template.

    Args:
        samples: Training samples: anything with a length and an index, as `DataLoader` takes.
        lengths: integer[n], tokens of each sample; integer[n, k] of several columns. None: all
            samples have the same length.
        collate: The samples of a batch → the batch: `PadCollator`, or your own. A batch is a
            tensor, or a dict or tuple of tensors.
        model: Makes the model, with new weights at each call. torch is seeded before.
        optimizer: Makes the optimizer of a model, with the highest learning rate of the run.
        loss_sum: ``(model, batch) → the sum of the loss`` over the batch, not its mean.
        evaluate: ``model → metric`` on data that are never trained on; move them to the model's
            device yourself. The model is in evaluation mode, without gradients.
        max_tokens: Memory budget of a batch, padding included. None: what `batch_size` samples of
            usual length take, or the longest sample.
        step_tokens: Real tokens of an update, about. Several times `max_tokens`, so that an update
            mixes batches of short and of long samples. None: what `batch_size` samples hold; beside
            `batch_size` it is rounded to a whole number of such batches.
        batch_size: Samples that your batches hold at present, the baseline: plain and grouped
            batches have so many. They may exceed `max_tokens` where long samples meet. None: as
            many as `max_tokens` holds of the longest.
        epochs: Passes over the samples.
        weigh: ``batch → what its loss sums over``. None counts ``batch["labels"]`` that are not
            -100, or one label per row at the end of a tuple.
        schedule: Share of the run → share of the learning rate.
        clip: The largest norm of a gradient. None: no limit.
        metric: What `evaluate` returns, in words.
        better: Whether a ``"lower"`` or a ``"higher"`` metric is better.
        collate_packed: The samples of a packed row → the batch: `PackCollator`, for strategies
            that pack; `loss_sum` must then take such batches too.
        difficulties: Name → float[n], scores for curricula, or a function that computes them. Its
            time is charged to the strategies that use them.
        strategies: Names of the strategies to compare by default.
        device: Where to train. None: on the GPU if there is one.
        labels: [n], the class of each sample, for `advise`.
        groups: [n], where each sample comes from, for `advise`: a source, a language, a speaker.
        features: Numbers of each sample, float[n, ...], or n texts, or a function that returns
            them, from which `advise` estimates how many labels are wrong.

    Attributes:
        plain_accumulate: Batches of `batch_size` samples in an update. None: it is not given.
        origin: The file that `load_task` read it from, whether in its small form, and the current
            folder then. None: it was made otherwise, and cannot be made again in another process.

    Raises:
        TaskError: If an argument has the wrong type.
        LengthsError: If lengths are not positive integers.
    """

    samples: Sequence[Any]
    lengths: IntoLengths | None = None
    collate: Collate
    model: Callable[[], torch.nn.Module]
    optimizer: Callable[[torch.nn.Module], torch.optim.Optimizer]
    loss_sum: LossSum
    evaluate: Callable[[torch.nn.Module], float]
    max_tokens: int = None  # type: ignore[assignment]  # set by __post_init__
    step_tokens: int = None  # type: ignore[assignment]  # set by __post_init__
    batch_size: int | None = None
    epochs: int = 1
    weigh: Callable[[Any], float] | None = None
    schedule: Callable[[float], float] = warm_up_then_decay
    clip: float | None = 1.0
    metric: str = "validation loss"
    better: Literal["lower", "higher"] = "lower"
    collate_packed: Collate | None = None
    difficulties: Mapping[str, Difficulty] = field(default_factory=dict)
    strategies: Sequence[str] | None = None
    device: str | None = None
    labels: npt.ArrayLike | None = None
    groups: npt.ArrayLike | None = None
    features: npt.ArrayLike | Callable[[], npt.ArrayLike] | None = None
    plain_accumulate: int | None = field(default=None, init=False)
    origin: tuple[str, bool, str] | None = field(default=None, init=False)
    _scores: dict[str, tuple[npt.ArrayLike, float]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        """Check what can be checked without training."""
        check_choice("Task", "better", self.better, ("lower", "higher"))
        sizes = ("max_tokens", "step_tokens")
        keep_whole(self, "epochs", optional=("batch_size", *sizes), most=LARGEST)
        lacking = [name for name in sizes if getattr(self, name) is None]
        if lacking and self.batch_size is None:
            raise TaskError(
                f"Task has no {' and no '.join(lacking)}. Give both, or the batch_size of today."
            )
        clip, scores, names = self.clip, self.difficulties, self.strategies
        is_norm = isinstance(clip, int | float) and not isinstance(clip, bool) and clip > 0
        is_scored = isinstance(scores, Mapping) and _are_texts(scores)
        is_list = isinstance(names, list | tuple) and _are_texts(names)
        is_sequence = hasattr(self.samples, "__len__") and hasattr(self.samples, "__getitem__")
        checks: list[tuple[str, object, str]] = [
            ("metric", isinstance(self.metric, str) and self.metric.strip(), "words"),
            ("clip", clip is None or is_norm, "a number above 0, or None"),
            ("difficulties", is_scored, "a dictionary: names and scores"),
            ("strategies", names is None or is_list, "a list of names, or None"),
            ("samples", is_sequence, "a sequence: a length, and an index"),
            *((name, callable(getattr(self, name)), "a function") for name in _FUNCTIONS),
        ]
        for name in ("weigh", "collate_packed"):
            value = getattr(self, name)
            checks += [(name, value is None or callable(value), "a function, or None")]
        try:
            self.place()
        except (RuntimeError, TypeError):
            checks.append(("device", False, "a device of torch, such as 'cpu', or None"))
        for name, is_right, expected in checks:
            if not is_right:
                given = one_line(repr(getattr(self, name)), 60)
                raise TaskError(f"Task({name}={given}): expected {expected}.")
        size = len(self.samples)
        lengths = [1] * size if self.lengths is None else self.lengths
        object.__setattr__(self, "lengths", as_lengths(lengths, columns=True))
        if self.batch_size is not None:
            budgets = suggest(self.sizes, batch_size=self.batch_size)
            object.__setattr__(self, "max_tokens", self.max_tokens or budgets.for_all)
            batches = max(1, round((self.step_tokens or 0) / budgets.step_tokens))
            object.__setattr__(self, "step_tokens", budgets.tokens_of(batches))
            object.__setattr__(self, "plain_accumulate", batches)
        for name in ("lengths", "labels", "groups", "features"):
            values = getattr(self, name)
            if values is None or (name == "features" and callable(values)):
                continue
            many = f"{len(values):,}" if hasattr(values, "__len__") else type(values).__name__
            if many != f"{size:,}":
                raise TaskError(
                    f"Task({name}=…) has {many} for {size:,} samples, expected one for each."
                )

    def with_batch_size(self, batch_size: int) -> Task:
        """Return the same job with other batches at present, and the budgets that go with them."""
        if batch_size == self.batch_size:
            return self
        other = replace(self, batch_size=batch_size, max_tokens=None, step_tokens=None)  # type: ignore[arg-type]  # derived
        object.__setattr__(other, "origin", self.origin)
        other.take_scores(self.computed_scores())
        return other

    @property
    def sizes(self) -> LengthArray:
        """The lengths, checked: integer[n] or integer[n, k]."""
        return self.lengths  # type: ignore[return-value]  # as_lengths made them

    @property
    def num_tokens(self) -> int:
        """Real tokens of all samples, of all columns."""
        return int(totals(self.sizes).sum(dtype="int64"))

    @property
    def sign(self) -> float:
        """The factor that makes a lower metric the better one."""
        return 1.0 if self.better == "lower" else -1.0

    def as_metric(self, returned: object) -> float:
        """Convert what `evaluate` returned to a number; raise `TaskError` if it is none."""
        try:
            return float(returned)  # type: ignore[arg-type]  # others raise
        except (TypeError, ValueError, RuntimeError):
            raise TaskError(
                f"evaluate returned {type(returned).__name__}, expected a number: {self.metric}."
            ) from None

    def place(self) -> torch.device:
        """Return the device to train on."""
        if self.device is not None:
            return torch.device(self.device)
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def shortened(self, share: float, *, seed: int = 0) -> Task:
        """Return the same job with a share of its tokens: fewer epochs, or a part of one.

        The short run goes through the whole schedule of the learning rate and the whole pacing of a
        curriculum. The time that scores took is charged in proportion. Where less than an epoch is
        left, it has a random part of the samples.

        Raises:
            TaskError: If the share is not above 0 and at most 1.
        """
        if not 0 < share <= 1:
            raise TaskError(f"shortened({share}): expected a share above 0, up to 1.")
        kept = np.arange(len(self.samples))
        if self.epochs * share < 1:
            drawn = generator(seed, "shortened").permutation(kept.size)
            kept = np.sort(drawn[: max(1, round(kept.size * self.epochs * share))])
        short = replace(
            self,
            samples=Subset(self.samples, kept.tolist()),  # type: ignore[arg-type]  # any sequence
            lengths=self.sizes[kept],
            epochs=max(1, round(self.epochs * share)),
            labels=None,  # of all samples, and not used in training
            groups=None,
            features=None,
        )
        for name in self.difficulties:
            scores, seconds = self.difficulty(name)
            short._scores[name] = np.asarray(scores)[kept], seconds * share  # noqa: SLF001 -- its own
        return short

    def computed_scores(self) -> dict[str, tuple[npt.ArrayLike, float]]:
        """Return the scores that were computed so far, with the seconds that they took."""
        return dict(self._scores)

    def take_scores(self, scores: Mapping[str, tuple[npt.ArrayLike, float]]) -> None:
        """Use scores that another process computed."""
        self._scores.update(scores)

    def difficulty(self, name: str | None = None) -> tuple[npt.ArrayLike, float]:
        """Return scores, float[n], and the seconds that computing them took.

        Without a name, these are the first of `difficulties`, or lengths if there are none.

        Raises:
            TaskError: If there are none of that name.
        """
        if name is None:
            name = next(iter(self.difficulties), "length")
        if name == "length" and name not in self.difficulties:
            return totals(self.sizes), 0.0
        if name not in self.difficulties:
            known = ", ".join(["length", *self.difficulties])
            raise TaskError(f"the task has no difficulty {name!r}, only: {known}.")
        if name not in self._scores:
            scores, started = self.difficulties[name], time.perf_counter()
            if callable(scores):
                self._scores[name] = scores(), time.perf_counter() - started
            else:
                self._scores[name] = scores, 0.0
        return self._scores[name]


def _are_texts(values: Iterable[object]) -> bool:
    return all(isinstance(each, str) for each in values)
