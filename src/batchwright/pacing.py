"""Pacing functions: how much of the data is eligible as training goes on.

Each is a frozen value that maps progress (consumed ÷ horizon of the curriculum) to a share of the
samples: `bw.pacing.root(p=2)(0.5)`. Any callable of that shape is a pacing. In the formulas, s is
`start`, u is progress, and v = min(1, u/reach).
"""

# ruff: noqa: N801 (called like functions)

import numbers
import operator
import sys
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from batchwright.errors import PlanError
from batchwright.typing import FloatArray, IntArray

__all__ = [
    "LengthPacing",
    "Pacing",
    "baby_step",
    "constant",
    "keep_rate",
    "length_warm_up",
    "linear",
    "root",
    "single_step",
]


class Pacing(Protocol):
    """Says how much of the data is eligible as training goes on, as a pure function of progress."""

    def __call__(self, progress: npt.ArrayLike) -> FloatArray:
        """Return the share of the samples that are eligible, in (0, 1].

        Args:
            progress: float[m], 0 or more; more than 1 counts as 1.

        Returns:
            float64[m]: one share for each progress; a number gives float64[].
        """
        ...


class LengthPacing(Protocol):
    """Says how long a sequence may be as training goes on: a `Pacing`, in tokens."""

    def __call__(self, progress: npt.ArrayLike) -> IntArray:
        """Return the longest sequence allowed at each progress, int64[m], in tokens."""
        ...


@dataclass(frozen=True)
class constant:
    """Keep the same share eligible throughout: with 1, the control of any curriculum.

    Args:
        share: The share that is eligible. Below 1, the hardest samples are never seen.

    Raises:
        PlanError: If a setting is out of its range; when called, if progress is below 0.

    Example:
        >>> constant()([0, 0.5, 1])
        array([1., 1., 1.])
    """

    share: float = 1.0

    def __post_init__(self) -> None:
        """Check the setting."""
        _keep(self, _SHARE, "share")

    def __call__(self, progress: npt.ArrayLike) -> FloatArray:
        """Return the share that is eligible at each progress, float64[m]."""
        return np.full_like(_progress(progress), self.share)


@dataclass(frozen=True)
class linear:
    """Make samples eligible evenly: s + (1 − s)·v.

    Args:
        start: The share that is eligible first.
        reach: The share of the horizon after which all is eligible. Above 1, the run ends before.

    Raises:
        PlanError: If a setting is out of its range; when called, if progress is below 0.

    Example:
        >>> linear(start=0.2)([0, 0.5, 1])
        array([0.2, 0.6, 1. ])

    Source:
        Platanios et al., "Competence-based Curriculum Learning for Neural Machine Translation",
        2019, arXiv:1903.09848.
    """

    _: KW_ONLY
    start: float = 0.01
    reach: float = 1.0

    def __post_init__(self) -> None:
        """Check the settings."""
        _keep(self, _SHARE, "start")
        _keep(self, _REACH, "reach")

    def __call__(self, progress: npt.ArrayLike) -> FloatArray:
        """Return the share that is eligible at each progress, float64[m]."""
        done = _part_done(progress, self.reach)
        return _grown(self.start + (1 - self.start) * done, self.start, done)


@dataclass(frozen=True)
class root:
    """Make samples eligible quickly at first, then ever more slowly: (s^p + (1 − s^p)·v)^(1/p).

    With p = 2, new samples come half as fast where twice as many are eligible, so that each gets
    equal attention. With p = 1 it is `linear`.

    Args:
        p: The degree of the root, at least 0.01.
        start: The share that is eligible first.
        reach: The share of the horizon after which all is eligible. Above 1, the run ends before.

    Raises:
        PlanError: If a setting is out of its range; when called, if progress is below 0.

    Example:
        >>> root(p=2, start=0.6)([0, 0.5, 1])
        array([0.6       , 0.82462113, 1.        ])

    Source:
        Platanios et al., "Competence-based Curriculum Learning for Neural Machine Translation",
        2019, arXiv:1903.09848.
    """

    p: float = 2
    _: KW_ONLY
    start: float = 0.01
    reach: float = 1.0

    def __post_init__(self) -> None:
        """Check the settings."""
        _keep(self, _DEGREE, "p")
        _keep(self, _SHARE, "start")
        _keep(self, _REACH, "reach")

    def __call__(self, progress: npt.ArrayLike) -> FloatArray:
        """Return the share that is eligible at each progress, float64[m]."""
        done = _part_done(progress, self.reach)
        first = self.start**self.p
        # A NumPy number ** another is rounded otherwise than an array of one; `power` is not.
        share = np.power(first + (1 - first) * done, 1 / self.p)
        return _grown(share, self.start, done)


@dataclass(frozen=True)
class single_step:
    """Train on the easiest share until `reach`, then on everything.

    Args:
        start: The share that is eligible first.
        reach: The share of the horizon after which all is eligible. Above 1, the run ends before.

    Raises:
        PlanError: If a setting is out of its range; when called, if progress is below 0.

    Example:
        >>> single_step(start=0.2, reach=0.5)([0, 0.49, 0.5, 1])
        array([0.2, 0.2, 1. , 1. ])

    Source:
        Hacohen, Weinshall, "On The Power of Curriculum Learning in Training Deep Networks", 2019,
        arXiv:1904.03626.
    """

    _: KW_ONLY
    start: float = 0.1
    reach: float = 0.5

    def __post_init__(self) -> None:
        """Check the settings."""
        _keep(self, _SHARE, "start")
        _keep(self, _REACH, "reach")

    def __call__(self, progress: npt.ArrayLike) -> FloatArray:
        """Return the share that is eligible at each progress, float64[m]."""
        return np.where(_progress(progress) < self.reach, float(self.start), 1.0)


@dataclass(frozen=True)
class baby_step:
    """Add one bin of samples at a time, easiest first: (⌊v·bins⌋ + 1) ÷ bins, at most 1.

    Args:
        bins: How many bins of equal size the samples are cut into.
        reach: The share of the horizon that the bins divide.

    Raises:
        PlanError: If a setting is out of its range; when called, if progress is below 0.

    Example:
        >>> baby_step(bins=4)([0, 0.24, 0.25, 0.5, 0.75, 1])
        array([0.25, 0.25, 0.5 , 0.75, 1.  , 1.  ])

    Source:
        Bengio et al., "Curriculum Learning", 2009; Spitkovsky, Alshawi, Jurafsky, "From Baby Steps
        to Leapfrog", 2010.
    """

    bins: int = 5
    _: KW_ONLY
    reach: float = 1.0

    def __post_init__(self) -> None:
        """Check the settings."""
        _keep(self, _COUNT, "bins")
        _keep(self, _REACH, "reach")

    def __call__(self, progress: npt.ArrayLike) -> FloatArray:
        """Return the share that is eligible at each progress, float64[m]."""
        added = _whole_steps(_part_done(progress, self.reach) * self.bins)
        return np.asarray(np.minimum(added + 1, self.bins) / self.bins)


@dataclass(frozen=True)
class keep_rate:
    """Leave out ever more of the largest losses, up to the share that is noise: 1 − noise_rate·v.

    A model learns right labels before it memorizes wrong ones, so everything is kept at first.

    Args:
        noise_rate: The share of wrong labels, at least 0 and below 1. Results depend on it.
        reach: The share of the horizon after which the rate is constant.

    Raises:
        PlanError: If a setting is out of its range; when called, if progress is below 0.

    Example:
        >>> keep_rate(0.4, reach=0.1)([0, 0.05, 0.1, 1])
        array([1. , 0.8, 0.6, 0.6])

    Source:
        Han et al., "Co-teaching: Robust training of deep neural networks with extremely noisy
        labels", 2018, arXiv:1804.06872.
    """

    noise_rate: float
    _: KW_ONLY
    reach: float = 0.05

    def __post_init__(self) -> None:
        """Check the settings."""
        _keep(self, _RATE, "noise_rate")
        _keep(self, _REACH, "reach")

    def __call__(self, progress: npt.ArrayLike) -> FloatArray:
        """Return the share that is eligible at each progress, float64[m]."""
        return np.asarray(1 - self.noise_rate * _part_done(progress, self.reach))


@dataclass(frozen=True)
class length_warm_up:
    """Let sequences grow from a shortest to a longest length, in even steps.

    min_length + step·⌊n·v⌋ with n = ⌊(max_length − min_length) ÷ step⌋, and max_length from `reach`
    on. The caller cuts sequences to this length; see `batchwright.torch.LengthWarmUp`.

    Args:
        min_length: The longest sequence allowed at first, in tokens.
        max_length: The longest sequence allowed from `reach` on, in tokens.
        step: Tokens by which the length grows at a time; a multiple of 8 suits tensor cores.
        reach: The share of the horizon after which sequences have their full length. Above 1, the
            run ends before.

    Raises:
        PlanError: If a setting is out of its range, or min_length is above max_length; when called,
            if progress is below 0.

    Example:
        >>> length_warm_up(8, 30, step=8, reach=0.5)([0, 0.24, 0.25, 0.5, 1])
        array([ 8,  8, 16, 30, 30])

    Source:
        Li, Zhang, He, "The Stability-Efficiency Dilemma: Investigating Sequence Length Warmup for
        Training GPT Models", 2022, arXiv:2108.06084.
    """

    min_length: int
    max_length: int
    _: KW_ONLY
    step: int = 8
    reach: float = 0.3

    def __post_init__(self) -> None:
        """Check the settings."""
        _keep(self, _COUNT, "min_length", "max_length", "step")
        _keep(self, _REACH, "reach")
        if self.min_length > self.max_length:
            raise PlanError(
                f"length_warm_up(min_length={self.min_length}, max_length={self.max_length}): "
                "expected min_length to be at most max_length, as sequences grow."
            )

    def __call__(self, progress: npt.ArrayLike) -> IntArray:
        """Return the longest sequence allowed at each progress, int64[m], in tokens."""
        done = _part_done(progress, self.reach)
        steps = (self.max_length - self.min_length) // self.step
        lengths = self.min_length + self.step * _whole_steps(done * steps).astype(np.int64)
        return np.where(done >= 1, np.int64(self.max_length), lengths)


def _progress(progress: npt.ArrayLike) -> FloatArray:
    """Return progress as float64[m] in [0, 1]."""
    try:
        given = np.asarray(progress)
    except ValueError as error:  # rows of different lengths
        raise PlanError(f"progress is no array of numbers: {error}") from error
    if given.dtype.kind not in "iuf":
        raise PlanError(f"progress is {given.dtype}, expected numbers: consumed ÷ horizon.")
    bad = given[~(given >= 0)]
    if bad.size:
        raise PlanError(
            f"progress {float(bad[0])}: expected 0 or more, what was consumed ÷ the horizon."
        )
    # A ufunc makes a NumPy number of an array without dimensions.
    return np.asarray(np.minimum(given.astype(np.float64), 1.0))


def _part_done(progress: npt.ArrayLike, reach: float) -> FloatArray:
    """Return how much of the way to `reach` is done: float64[m] in [0, 1], exactly 1 from there."""
    # The minimum first: a tiny reach would overflow the quotient.
    return np.asarray(np.minimum(_progress(progress), reach) / reach)


def _grown(share: FloatArray, start: float, done: FloatArray) -> FloatArray:
    """Make a share exactly `start` at the beginning and 1 at the end, where rounding missed it."""
    within = np.where(done <= 0, start, np.clip(share, start, 1.0))
    return np.where(done >= 1, 1.0, within)


def _whole_steps(amount: FloatArray) -> FloatArray:
    """Round down, but count as whole what rounding left a hair below."""
    nearest = np.rint(amount)
    is_whole = np.isclose(amount, nearest, rtol=1e-12, atol=1e-9)
    return np.where(is_whole, nearest, np.floor(amount))


def _number(value: Any) -> int | float:
    """Return a finite number as Python's own int or float."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError
    plain = int(value) if isinstance(value, numbers.Integral) else float(value)
    if not abs(plain) <= sys.float_info.max:  # NaN is not
        raise OverflowError
    return plain


def _count(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError
    return operator.index(value)


_Rule = tuple[str, Callable[[Any], Any], Callable[[Any], bool]]
"""What is expected, how it is read as a plain Python value, and whether that will do."""

_SHARE: _Rule = (
    "a share of the samples, above 0 and at most 1 (a fifth is 0.2)",
    _number,
    lambda share: 0 < share <= 1,
)
_REACH: _Rule = (
    "a share of the horizon, a finite number above 0 (half of it is 0.5)",
    _number,
    lambda share: share > 0,
)
_DEGREE: _Rule = ("a finite number of at least 0.01", _number, lambda value: value >= 0.01)
_RATE: _Rule = (
    "a rate of at least 0 and below 1 (two in five is 0.4)",
    _number,
    lambda rate: 0 <= rate < 1,
)
_COUNT: _Rule = (
    "an integer of at least 1, below 2^53",
    _count,
    lambda count: 1 <= count < 2**53,
)


def _keep(pacing: object, rule: _Rule, *names: str) -> None:
    """Check settings, and put plain Python values in their place: equal settings are equal."""
    expected, plain, accepts = rule
    for name in names:
        given = getattr(pacing, name)
        try:
            value = plain(given)
            good = accepts(value)
        except (TypeError, OverflowError):
            good = False
        if not good:
            raise PlanError(f"{type(pacing).__name__}({name}={given!r}): expected {expected}.")
        object.__setattr__(pacing, name, value)
