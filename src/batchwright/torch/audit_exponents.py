"""Values by their power of two: what half floats would lose of them, at any loss scale."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from batchwright.typing import FloatArray

# Powers that are told apart. Those of single floats lie well inside, also when unscaled.
_LEAST, _MOST = -200, 200
_ZERO, _NOT_FINITE, _FIRST = 0, 1, 2
# Loss scales to choose from, as powers of two.
_SCALES = (-40, 100)

_BINS = _FIRST + _MOST - _LEAST + 1


@dataclass(frozen=True)
class Format:
    """Which numbers a floating point format has, in powers of two.

    Attributes:
        name: Short: ``"fp16"``.
        digits: Binary digits after the leading one.
        normal: From this power of two on, all digits are kept; below, values are subnormal.
        least: Below this power of two, values become zero.
        most: From this power of two on, values overflow.

    Example:
        >>> Format.of("fp16", torch.float16)
        Format(name='fp16', digits=10, normal=-14, least=-25, most=16)
    """

    name: str
    digits: int
    normal: int
    least: int
    most: int

    @classmethod
    def of(cls, name: str, dtype: torch.dtype) -> "Format":
        """Read the limits of a torch type."""
        limits = torch.finfo(dtype)
        digits, normal = -round(math.log2(limits.eps)), round(math.log2(limits.smallest_normal))
        # Half of the smallest subnormal is what still rounds to it.
        return cls(name, digits, normal, normal - digits - 1, math.frexp(limits.max)[1])


FORMATS: dict[str, Format] = {
    name: Format.of(name, dtype)
    for name, dtype in (
        ("fp16", torch.float16),
        ("bf16", torch.bfloat16),
        ("fp32", torch.float32),
        ("fp64", torch.float64),
    )
}


@dataclass(frozen=True)
class Shares:
    """What becomes of values that are kept in a format.

    Attributes:
        zero: Share that is zero before it is kept: behind a ReLU, or padding. Nothing is lost.
        flushed: Share of the others that becomes zero.
        subnormal: Share of the others that is kept with fewer digits.
        overflowed: Share of the others that is infinite or no number.
    """

    zero: float
    flushed: float
    subnormal: float
    overflowed: float


@dataclass(frozen=True)
class Exponents:
    """How many values have which power of two.

    Attributes:
        zeros: Values that are zero.
        not_finite: Values that are infinite or no number.
        powers: Power of two → values from it to twice it, whatever their sign.

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
        return cls.from_bins(count_bins(values).tolist())

    @classmethod
    def from_bins(cls, bins: list[int]) -> "Exponents":
        """Make them from what `count_bins` counted, of any number of tensors."""
        powers = {power: count for power, count in enumerate(bins[_FIRST:], start=_LEAST) if count}
        return cls(bins[_ZERO], bins[_NOT_FINITE], powers)

    @property
    def total(self) -> int:
        """How many values were seen."""
        return self.zeros + self.not_finite + sum(self.powers.values())

    def shares(self, kept: Format, scale: float = 1.0) -> Shares:
        """Tell what becomes of the values in a format.

        Args:
            kept: The format.
            scale: What they are multiplied by before they are kept: the loss scale.

        Returns:
            The shares, to a power of two: fp16 ends at 65,504, here at 65,536.
        """
        powers, counts = self.scaled(scale)
        others = max(int(counts.sum()) + self.not_finite, 1)
        flushed = int(counts[powers < kept.least].sum())
        subnormal = int(counts[powers < kept.normal].sum()) - flushed
        overflowed = int(counts[powers >= kept.most].sum()) + self.not_finite
        return Shares(
            self.zeros / max(self.total, 1),
            flushed / others,
            subnormal / others,
            overflowed / others,
        )

    def error(self, kept: Format, scale: float = 1.0) -> float:
        """Estimate how far the values are off in a format: one figure for all that is lost.

        Digits that are rounded off, fewer of them below the smallest normal number, values that
        become zero: each counts by its size, since small values beside large ones matter little.

        Args:
            kept: The format.
            scale: What they are multiplied by before they are kept.

        Returns:
            Root of the mean squared error, over that of the mean square. Infinite where one
            overflows; 0 without values.

        Example:
            >>> values = Exponents.of(torch.rand(1000) * 2.0**-20)
            >>> fp16, bf16 = (values.error(FORMATS[name]) for name in ("fp16", "bf16"))
            >>> fp16 > 10 * bf16
            True
        """
        if self.not_finite:
            return math.inf
        powers, counts = self.scaled(scale)
        return float(_relative_errors(powers, counts, kept))

    def scaled(self, scale: float) -> tuple[FloatArray, FloatArray]:
        """Return the powers times a scale, and their counts: float64[k] each."""
        powers = np.array(list(self.powers), dtype=np.float64) + nearest_power(scale)
        return powers, np.array(list(self.powers.values()), dtype=np.float64)


def count_bins(values: torch.Tensor, *, scale: float = 1.0) -> torch.Tensor:
    """Count values by their power of two, where they are: nothing is copied to the processor.

    Args:
        values: Any floating type and shape.
        scale: What they were multiplied by, to be taken out again: to the nearest power of two.

    Returns:
        int64[bins], for `Exponents.from_bins`; may be added to others. O(n), three passes.
    """
    wide = values.detach().flatten()
    wide = wide if wide.dtype in {torch.float32, torch.float64} else wide.float()
    powers = torch.frexp(wide).exponent - (1 + nearest_power(scale))
    bins = powers.clamp_(_LEAST, _MOST).add_(_FIRST - _LEAST)
    bins = torch.where(wide == 0, _ZERO, torch.where(wide.isfinite(), bins, _NOT_FINITE))
    return torch.bincount(bins, minlength=_BINS)


def nearest_power(scale: float) -> int:
    """Return the exponent of the power of two that is nearest; 0 for what is no scale.

    Example:
        >>> nearest_power(65536.0), nearest_power(0.3), nearest_power(0.0)
        (16, -2, 0)
    """
    return round(math.log2(scale)) if 0 < scale < math.inf else 0


def suiting_powers(seen: Exponents) -> range:
    """List the loss scales that suit gradients in half floats.

    A scale suits where half floats, with it, are no further off than brain floats. Gradients that
    were not finite are left out: at the scale they were seen at, the step was skipped.

    Args:
        seen: Gradients, the loss scale taken out.

    Returns:
        The powers of two. Empty: none suits, the gradients are spread too wide.

    Example:
        >>> suiting_powers(Exponents.of(torch.full((8,), 2.0**-20)))
        range(3, 36)
    """
    powers, counts = seen.scaled(1.0)
    scales = np.arange(*_SCALES)
    half = _relative_errors(powers + scales[:, None], counts, FORMATS["fp16"])
    brain = _relative_errors(powers, counts, FORMATS["bf16"])
    suiting = scales[half <= brain].tolist()
    return range(suiting[0], suiting[-1] + 1) if suiting else range(0)


def _relative_errors(powers: FloatArray, counts: FloatArray, kept: Format) -> FloatArray:
    """Estimate errors along the last axis of powers."""
    if not powers.size:
        return np.zeros(powers.shape[:-1])
    # Values spread evenly over [2^p, 2^(p+1)) have a mean square of 7/3 · 4^p, and rounding to
    # multiples of s one of s²/12. Relative to the largest power, so that none overflows here.
    largest = powers.max(axis=-1, keepdims=True)
    squares = 7 / 3 * 4.0 ** (powers - largest)
    spacing = np.maximum(powers, kept.normal) - kept.digits - largest
    lost = np.where(powers < kept.least, squares, 4.0**spacing / 12)
    errors = np.sqrt((counts * lost).sum(axis=-1) / (counts * squares).sum(axis=-1))
    return np.where(largest[..., 0] >= kept.most, math.inf, errors)
