"""Groups of samples in given proportions: sources that are mixed, classes that are balanced."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import partial
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from batchwright._checks import MOST_EPOCHS, check_choice, keep_whole, takes
from batchwright.errors import LengthsError, PlanError
from batchwright.order.cells import Cells
from batchwright.order.draws import DrawnOrder, Draws, probes_until
from batchwright.order.pools import Kept
from batchwright.order.scores import as_groups, as_weights, keep_positive, refuse_other_data
from batchwright.typing import FloatArray, IntArray, Sorted

Shares: TypeAlias = Mapping[Hashable, float]
"""Group, an integer or a string → share of the draws."""

Schedule: TypeAlias = Sequence[tuple[float, Shares]] | Callable[[float], Shares]
"""Weights at some progress each, linear in between; or a function of progress."""

_PROBES = 8


@dataclass(frozen=True, eq=False)
class Mixture(DrawnOrder):
    """Draw from several groups of samples in given proportions, exactly.

    Guarantees that every group is less than a sample off its share of the run at the end of each
    part of an epoch, as long as weights drift rather than jump back and forth. Inside a group no
    sample is drawn twice before each was drawn once.

    Args:
        groups: [n], which group each sample belongs to: integers or names.
        weights: Group → share of the draws; any scale. Groups without one are never drawn.
        temperature: In place of weights, shares of ``size ** (1 / temperature)``: 1 keeps the
            groups as they are, infinity draws all alike.
        schedule: In place of weights, how they change: ``[(0.0, {...}), (1.0, {...})]``, linear
            in between, or a function of progress.
        epochs: Epochs until the schedule's progress is 1.
        num_samples: Draws of an epoch. None: as many as there are samples.
        parts: Into which an epoch is cut: samples are rearranged only inside a part, and shares
            are exact at the end of each.
        unit: What shares are of: ``"samples"``, or ``"tokens"``.

    Attributes:
        names: The groups, in the sequence of `shares`.

    Raises:
        LengthsError: If weights are negative, NaN, all 0, or of unknown groups; if groups are not
            one for each sample.
        PlanError: If a setting is out of range.

    Example:
        >>> order = Mixture(["de", "de", "de", "ko"], weights={"de": 1, "ko": 1}, parts=1)
        >>> sorted(order(np.array([5, 5, 5, 5]), seed=0, epoch=0).members.tolist())[2:]
        [3, 3]

    Source: temperature: N. Arivazhagan et al., *Massively Multilingual Neural Machine Translation
    in the Wild*, 2019, arXiv:1907.05019.
    """

    groups: npt.ArrayLike = field(repr=False)
    _: KW_ONLY
    weights: Shares | None = None
    temperature: float | None = None
    schedule: Schedule | None = None
    epochs: float = 1.0
    num_samples: int | None = None
    parts: int = 8
    unit: Literal["tokens", "samples"] = "samples"
    _kept: Kept = field(default_factory=lambda: Kept(1), init=False, repr=False)
    names: tuple[Hashable, ...] = field(default=(), init=False, repr=False)
    _times: list[float] = field(default_factory=list, init=False, repr=False)
    _stages: list[FloatArray] = field(default_factory=list, init=False, repr=False)

    varies = True

    def __post_init__(self) -> None:
        labels = as_groups(self.groups, name="groups")
        names, sizes = np.unique(labels, return_counts=True)
        object.__setattr__(self, "groups", labels)
        object.__setattr__(self, "names", tuple(names.tolist()))
        given = [self.weights, self.temperature, self.schedule]
        if sum(each is not None for each in given) != 1:
            raise PlanError("Mixture: give one of weights, temperature and schedule.")
        keep_whole(self, "parts", optional=("num_samples",), error=PlanError)
        check_choice("Mixture", "unit", self.unit, ("samples", "tokens"), error=PlanError)
        keep_positive(self, "epochs", most=MOST_EPOCHS)
        keep_positive(self, optional=("temperature",))
        schedule = self.schedule
        if callable(schedule):
            if isinstance(schedule, type) or not takes(schedule, 0.0):
                raise self._no_schedule()
            self.shares(0.0)
            self.shares(1.0)
            return
        if self.temperature is not None:
            powers = (sizes / sizes.max()) ** (1 / self.temperature)
            schedule = [(0.0, dict(zip(self.names, powers.tolist(), strict=True)))]
        elif self.weights is not None:
            schedule = [(0.0, self.weights)]
        try:
            stages = [(float(time), weights) for time, weights in schedule or ()]
        except (TypeError, ValueError):
            raise self._no_schedule() from None
        times = [time for time, _ in stages]
        if not times or sorted(times) != times or not np.isfinite(times).all():
            raise self._no_schedule()
        object.__setattr__(self, "_times", times)
        object.__setattr__(self, "_stages", [self._normalised(weights) for _, weights in stages])

    @property
    def probes(self) -> IntArray:
        """The epochs to count: along the schedule."""
        last = 1 if self.schedule is None else int(np.ceil(self.epochs))
        return probes_until(last + _PROBES - 1, 2 * _PROBES)

    def shares(self, progress: float) -> FloatArray:
        """Return the share of each group at some progress, float64[k], adding up to 1."""
        if callable(self.schedule):
            return self._normalised(self.schedule(min(progress, 1.0)))
        if len(self._stages) == 1:
            return self._stages[0]
        columns = np.transpose(self._stages)
        shares = np.array([np.interp(progress, self._times, column) for column in columns])
        shares /= shares.sum()
        return shares

    def draws_of(self, samples: Sorted, num_samples: int) -> Draws:
        """Return the draws from sorted samples."""
        refuse_other_data(np.asarray(self.groups).size, num_samples, name="groups")
        groups = np.asarray(self.groups)
        codes = np.array(self.names, dtype=groups.dtype).searchsorted(groups)
        cells = Cells.of(samples, codes, len(self.names), shuffle=True)
        in_tokens = self.unit == "tokens"
        sizes = cells.mean_lengths if in_tokens else np.ones(len(cells))
        every = int(samples.counts.sum())
        mean = float((samples.values * samples.counts.astype(np.float64)).sum()) / every
        return Draws(
            cells,
            partial(self._in_samples, sizes),
            horizon=self.epochs,
            size=float(self.num_samples or every) * (mean if in_tokens else 1.0),
            sizes=sizes,
            parts=self.parts,
        )

    def _in_samples(self, sizes: FloatArray, progress: float) -> FloatArray:
        """Return the shares of groups in samples, of which each has some tokens."""
        found: FloatArray = self.shares(progress) / sizes
        return found

    def _normalised(self, weights: Shares) -> FloatArray:
        if not isinstance(weights, Mapping):
            raise PlanError(f"Mixture: weights are {weights!r:.60}, expected group → share.")
        if unknown := set(weights) - set(self.names):
            raise LengthsError(
                f"weights name {sorted(map(str, unknown))}, which no sample belongs to. There are "
                f"{list(self.names)[:20]}."
            )
        listed = [weights.get(name, 0.0) for name in self.names]
        shares = as_weights(listed, name=f"weights of groups {list(self.names)[:20]}")
        shares /= shares.sum()
        return shares

    def _no_schedule(self) -> PlanError:
        return PlanError(
            f"Mixture(schedule={self.schedule!r:.60}): expected rising numbers, each with its "
            "weights: [(0.0, {…}), (1.0, {…})]; or a function of progress."
        )


@dataclass(frozen=True, eq=False)
class ClassBalanced(DrawnOrder):
    """Draw rare classes more often than they come.

    A `Mixture` of the classes with shares of ``size ** (1 / temperature)``: counts are exact, and
    inside a class no sample is drawn twice before each was drawn once.

    Args:
        labels: [n], the class of each sample: integers or names.
        temperature: Infinity draws all classes alike, 2 by the square root of their size, 1 as
            they come. For classes of a few samples, 2 to 5 repeats them less than infinity.
        after: Epochs that are plain shuffles first (*deferred* balancing).
        num_samples: Draws of an epoch. None: as many as there are samples.
        parts: Into which an epoch is cut; shares are exact at the end of each.

    Raises:
        LengthsError: If labels are not [n].
        PlanError: If a setting is out of range.

    Example:
        >>> order = ClassBalanced([0, 0, 0, 1], parts=1)
        >>> sorted(order(np.array([5, 5, 5, 5]), seed=0, epoch=0).members.tolist())[2:]
        [3, 3]

    Source: deferred: K. Cao et al., *Learning Imbalanced Datasets with Label-Distribution-Aware
    Margin Loss*, 2019, arXiv:1906.07413.
    """

    labels: npt.ArrayLike = field(repr=False)
    _: KW_ONLY
    temperature: float = np.inf
    after: int = 0
    num_samples: int | None = None
    parts: int = 8
    mixture: Mixture = field(init=False, repr=False)
    _kept: Kept = field(default_factory=lambda: Kept(1), init=False, repr=False)

    varies = True

    def __post_init__(self) -> None:
        keep_whole(self, "parts", optional=("num_samples",), error=PlanError)
        keep_whole(self, "after", least=0, error=PlanError)
        keep_positive(self, "temperature")
        mixture = Mixture(
            as_groups(self.labels, name="labels"),
            temperature=self.temperature,
            num_samples=self.num_samples,
            parts=self.parts,
        )
        object.__setattr__(self, "mixture", mixture)

    def draws_of(self, samples: Sorted, num_samples: int) -> Draws:
        """Return the draws from sorted samples."""
        refuse_other_data(np.asarray(self.labels).size, num_samples, name="labels")
        return replace(self.mixture.draws_of(samples, num_samples), after=self.after)

    @property
    def probes(self) -> IntArray:
        """The epochs to count."""
        later = self.mixture.probes + self.after
        return np.concatenate(([0], later)) if self.after else later
