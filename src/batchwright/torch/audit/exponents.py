"""Values by their power of two: what half precision would lose of them, at any loss scale."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from batchwright.typing import FloatArray

# Powers that are counted apart. Those of fp32 lie well inside, also when unscaled.
_LEAST, _MOST = -200, 200
_ZERO, _NOT_FINITE, _FIRST = 0, 1, 2  # bins
_BINS = _FIRST + _MOST - _LEAST + 1
_SCALES = np.arange(-40, 100)  # loss scales to choose from, as powers of two


class Format(NamedTuple):
    """The range of a floating point format, in powers of two."""

    digits: int  # binary digits after the leading one
    normal: int  # below this power, values are subnormal: they keep fewer digits
    least: int  # below this power, values become zero
    most: int  # from this power on, values overflow


FORMATS = {"fp16": Format(10, -14, -25, 16), "bf16": Format(7, -126, -134, 128)}


@dataclass(frozen=True)
class Shares:
    """What becomes of values in a format."""

    zero: float  # of all values: zero before they are cast, after a ReLU, or as padding
    flushed: float  # of the others: become zero
    subnormal: float  # of the others: keep fewer digits
    overflowed: float  # of the others: infinite or NaN


@dataclass(frozen=True)
class Exponents:
    """How many values are zero, infinite or NaN, or between a power of two and twice that power.

    Example:
        >>> seen = Exponents.of(torch.tensor([0.0, 1.0, -1.5, 2.0**-26, 1e5]))
        >>> seen.zeros, seen.powers
        (1, {-26: 1, 0: 2, 16: 1})
        >>> seen.shares(FORMATS["fp16"])
        Shares(zero=0.2, flushed=0.25, subnormal=0.0, overflowed=0.25)
    """

    zeros: int = 0
    not_finite: int = 0
    powers: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, values: torch.Tensor) -> "Exponents":
        """Count the values of a tensor."""
        return cls.of_bins(count_bins(values))

    @classmethod
    def of_bins(cls, bins: torch.Tensor) -> "Exponents":
        """Convert what `count_bins` returned, or a sum of such."""
        zeros, not_finite, *counts = bins.tolist()
        powers = {power: count for power, count in enumerate(counts, start=_LEAST) if count}
        return cls(zeros, not_finite, powers)

    @property
    def total(self) -> int:
        """How many values were counted."""
        return self.zeros + self.not_finite + sum(self.powers.values())

    def shares(self, kept: Format, scale: float = 1.0) -> Shares:
        """Return what becomes of the values in a format, multiplied by a loss scale before.

        They are exact to a power of two: fp16 ends at 65,504, here at 65,536.
        """
        powers, counts = self._scaled(scale)
        others = max(int(counts.sum()) + self.not_finite, 1)
        flushed = int(counts[powers < kept.least].sum())
        subnormal = int(counts[powers < kept.normal].sum()) - flushed
        overflowed = int(counts[powers >= kept.most].sum()) + self.not_finite
        zero = self.zeros / max(self.total, 1)
        return Shares(zero, flushed / others, subnormal / others, overflowed / others)

    def error(self, kept: Format, scale: float = 1.0) -> float:
        """Estimate the error of the values in a format, relative to the root of their mean square.

        Infinite where a value overflows; 0 without values.
        """
        if self.not_finite:
            return math.inf
        return float(_relative_errors(*self._scaled(scale), kept))

    def suiting_scales(self) -> range:
        """Return the loss scales, as powers of two, at which fp16 is no further off than bf16."""
        powers, counts = self._scaled(1.0)
        fp16 = _relative_errors(powers + _SCALES[:, None], counts, FORMATS["fp16"])
        suiting = _SCALES[fp16 <= _relative_errors(powers, counts, FORMATS["bf16"])].tolist()
        return range(suiting[0], suiting[-1] + 1) if suiting else range(0)

    def _scaled(self, scale: float) -> tuple[FloatArray, FloatArray]:
        powers = np.array(list(self.powers), dtype=np.float64) + _nearest_power(scale)
        return powers, np.array(list(self.powers.values()), dtype=np.float64)


def count_bins(values: torch.Tensor, *, scale: float = 1.0) -> torch.Tensor:
    """Count values by their power of two, the scale divided out, on their device: int64[bins]."""
    wide = values.detach().flatten()
    wide = wide if wide.dtype in {torch.float32, torch.float64} else wide.float()
    powers = torch.frexp(wide).exponent - (1 + _nearest_power(scale))
    bins = powers.clamp_(_LEAST, _MOST).add_(_FIRST - _LEAST)
    bins = torch.where(wide == 0, _ZERO, torch.where(wide.isfinite(), bins, _NOT_FINITE))
    return torch.bincount(bins, minlength=_BINS)


def _nearest_power(scale: float) -> int:
    return round(math.log2(scale)) if 0 < scale < math.inf else 0


def _relative_errors(powers: FloatArray, counts: FloatArray, kept: Format) -> FloatArray:
    """Estimate errors along the last axis of powers."""
    if not powers.size:
        return np.zeros(powers.shape[:-1])
    # Values spread evenly over [2^p, 2^(p+1)) have a mean square of 7/3 · 4^p, and rounding to
    # multiples of s has one of s²/12. Relative to the largest power, so that none overflows here.
    largest = powers.max(axis=-1, keepdims=True)
    squares = 7 / 3 * 4.0 ** (powers - largest)
    spacing = np.maximum(powers, kept.normal) - kept.digits - largest
    lost = np.where(powers < kept.least, squares, 4.0**spacing / 12)
    errors = np.sqrt((counts * lost).sum(axis=-1) / (counts * squares).sum(axis=-1))
    return np.where(largest[..., 0] >= kept.most, math.inf, errors)
