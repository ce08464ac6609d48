"""Pacing functions: how much of the data is eligible as training goes on.

Each is a frozen value that maps progress (consumed ÷ horizon of the curriculum) to a share of the
samples: `bw.pacing.root(p=2)(0.5)`. Any callable of that shape is a pacing. In the formulas, s is
`start`, u is progress, and v = min(1, u/reach). A setting out of its range raises PlanError, and
so does progress below 0.
"""

# ruff: noqa: N801 (called like functions)

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, fields

import numpy as np
import numpy.typing as npt

from batchwright._checks import real_number, whole_number
from batchwright.errors import PlanError
from batchwright.typing import FloatArray, IntArray

__all__ = [
    "baby_step",
    "constant",
    "keep_rate",
    "length_warm_up",
    "linear",
    "root",
    "single_step",
]


@dataclass(frozen=True)
class _Settings:
    """Settings that are checked, and how far progress is on the way to `reach`."""

    def __post_init__(self) -> None:
        # Plain Python values: equal settings are equal.
        owner = type(self).__name__
        for name in (field.name for field in fields(self)):
            given = getattr(self, name)
            if name in _RULES:
                accepts, expected = _RULES[name]
                value = real_number(
                    owner, name, given, accepts=accepts, expected=expected, error=PlanError
                )
            else:
                value = whole_number(owner, name, given, most=2**53 - 1, error=PlanError)
            object.__setattr__(self, name, value)

    def _done(self, progress: npt.ArrayLike) -> FloatArray:
        """Return how much of the way is done: float64[m] in [0, 1], exactly 1 from `reach` on."""
        try:
            given = np.asarray(progress)
        except ValueError as error:  # rows of different lengths
            raise PlanError(f"progress is no array of numbers: {error}") from error
        if given.dtype.kind not in "iuf" or not (given >= 0).all():
            raise PlanError(
                f"progress={progress!r:.60}: expected numbers of at least 0, consumed ÷ horizon."
            )
        reach = getattr(self, "reach", 1.0)
        # The minimum first: a tiny reach would overflow the quotient.
        return np.asarray(np.minimum(given.astype(np.float64), min(reach, 1.0)) / reach)


class _Pacing(_Settings):
    """A share of the samples."""

    def __call__(self, progress: npt.ArrayLike) -> FloatArray:
        """Return the share that is eligible at each progress, float64[m]."""
        return self._share(self._done(progress))

    def _share(self, done: FloatArray) -> FloatArray:
        raise NotImplementedError


@dataclass(frozen=True)
class constant(_Pacing):
    """Keep the same share eligible throughout: with 1, the control of any curriculum.

    Args:
        share: The share that is eligible. Below 1, the hardest samples are never seen.

    Example:
        >>> constant()([0, 0.5, 1])
        array([1., 1., 1.])
    """

    share: float = 1.0

    def _share(self, done: FloatArray) -> FloatArray:
        return np.full_like(done, self.share)


@dataclass(frozen=True)
class linear(_Pacing):
    """Make samples eligible evenly: s + (1 − s)·v.

    Args:
        start: The share that is eligible first.
        reach: The share of the horizon after which all is eligible. Above 1, the run ends before.

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

    def _share(self, done: FloatArray) -> FloatArray:
        return _grown(self.start + (1 - self.start) * done, self.start, done)


@dataclass(frozen=True)
class root(_Pacing):
    """Make samples eligible quickly at first, then ever more slowly: (s^p + (1 − s^p)·v)^(1/p).

    With p = 2, new samples come half as fast where twice as many are eligible, so that each gets
    equal attention. With p = 1 it is `linear`.

    Args:
        p: The degree of the root, at least 0.01.
        start: The share that is eligible first.
        reach: The share of the horizon after which all is eligible. Above 1, the run ends before.

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

    def _share(self, done: FloatArray) -> FloatArray:
        first = self.start**self.p
        # A NumPy number ** another is rounded otherwise than an array of one; `power` is not.
        share = np.power(first + (1 - first) * done, 1 / self.p)
        return _grown(share, self.start, done)


@dataclass(frozen=True)
class single_step(_Pacing):
    """Train on the easiest share until `reach`, then on everything.

    Args:
        start: The share that is eligible first.
        reach: The share of the horizon after which all is eligible. Above 1, the run ends before.

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

    def _share(self, done: FloatArray) -> FloatArray:
        return np.where(done < 1, float(self.start), 1.0)


@dataclass(frozen=True)
class baby_step(_Pacing):
    """Add one bin of samples at a time, easiest first: (⌊v·bins⌋ + 1) ÷ bins, at most 1.

    Args:
        bins: How many bins of equal size the samples are cut into.
        reach: The share of the horizon that the bins divide.

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

    def _share(self, done: FloatArray) -> FloatArray:
        added = _whole_steps(done * self.bins)
        return np.asarray(np.minimum(added + 1, self.bins) / self.bins)


@dataclass(frozen=True)
class keep_rate(_Pacing):
    """Leave out ever more of the largest losses, up to the share that is noise: 1 − noise_rate·v.

    A model learns right labels before it memorizes wrong ones, so everything is kept at first.

    Args:
        noise_rate: The share of wrong labels, at least 0 and below 1. Results depend on it.
        reach: The share of the horizon after which the rate is constant.

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

    def _share(self, done: FloatArray) -> FloatArray:
        return np.asarray(1 - self.noise_rate * done)


@dataclass(frozen=True)
class length_warm_up(_Settings):
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
        super().__post_init__()
        if self.min_length > self.max_length:
            raise PlanError(
                f"length_warm_up(min_length={self.min_length}, max_length={self.max_length}): "
                "expected min_length to be at most max_length, as sequences grow."
            )

    def __call__(self, progress: npt.ArrayLike) -> IntArray:
        """Return the longest sequence allowed at each progress, int64[m], in tokens."""
        done = self._done(progress)
        steps = (self.max_length - self.min_length) // self.step
        lengths = self.min_length + self.step * _whole_steps(done * steps).astype(np.int64)
        return np.where(done >= 1, np.int64(self.max_length), lengths)


def _grown(share: FloatArray, start: float, done: FloatArray) -> FloatArray:
    """Make a share exactly `start` at the beginning and 1 at the end, where rounding missed it."""
    within = np.where(done <= 0, start, np.clip(share, start, 1.0))
    return np.where(done >= 1, 1.0, within)


def _whole_steps(amount: FloatArray) -> FloatArray:
    """Round down, but count as whole what rounding left a hair below."""
    nearest = np.rint(amount)
    is_whole = np.isclose(amount, nearest, rtol=1e-12, atol=1e-9)
    return np.where(is_whole, nearest, np.floor(amount))


_SHARE = (
    lambda share: 0 < share <= 1,
    "a share of the samples, above 0 and at most 1 (a fifth is 0.2)",
)
_RULES: dict[str, tuple[Callable[[float], bool], str]] = {
    "share": _SHARE,
    "start": _SHARE,
    "reach": (
        lambda share: 0 < share < math.inf,
        "a share of the horizon, a finite number above 0 (half of it is 0.5)",
    ),
    "p": (lambda p: 0.01 <= p < math.inf, "a finite number of at least 0.01"),
    "noise_rate": (
        lambda rate: 0 <= rate < 1,
        "a rate of at least 0 and below 1 (two in five is 0.4)",
    ),
}
