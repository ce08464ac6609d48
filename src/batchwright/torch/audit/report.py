"""What an audit saw, layer by layer, and what to do about it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from batchwright._checks import check_choice
from batchwright._format import number, percent, plural, printable
from batchwright.errors import PrecisionError
from batchwright.torch.update.measuring import MODES
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


_FEW = 0.25  # up to this share of the layers is kept in fp32; beyond, bf16 is the simpler choice
_LOST = 0.1  # fewer lost updates need no advice: in fp32, next to none are lost
_FIRST_SCALE = 16  # torch.amp.GradScaler starts at 2^16
_NAMED = 6
_ROWS = 60


@dataclass(frozen=True)
class LostUpdates:
    """How many elements of parameters an update left unchanged, since the change was too small."""

    due: int = 0  # elements with a gradient or a change
    lost: int = 0  # of these, the ones that did not change
    in_fp16: int = 0  # or would not, were the parameters in this format
    in_bf16: int = 0

    def share(self, kept: str | None = None) -> float:
        """Return the share that was lost; or would have been, in another format."""
        lost = {None: self.lost, "fp16": self.in_fp16, "bf16": self.in_bf16}[kept]
        return lost / max(self.due, 1)

    def __add__(self, other: "LostUpdates") -> "LostUpdates":
        return LostUpdates(*map(sum, zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class LayerAudit:
    """One layer: a module without children, or with its own parameters; gradients unscaled."""

    name: str  # as in `named_modules`
    kind: str  # the module's class
    activations_in: str | None = None  # the format of its output; None: no output was seen
    parameters_in: str | None = None  # the format of its parameters; None: it has none
    activations: Exponents = field(default_factory=Exponents)
    gradients: Exponents = field(default_factory=Exponents)  # with respect to its output
    parameter_gradients: Exponents = field(default_factory=Exponents)
    updates: Exponents = field(default_factory=Exponents)  # changes of its parameters
    lost: LostUpdates = field(default_factory=LostUpdates)


@dataclass(frozen=True)
class AuditReport:
    """What an audit saw. Printed, it is a table and advice; `dataclasses.asdict` is for JSON."""

    layers: tuple[LayerAudit, ...]  # in the order of their first call; last, those never called
    updates: int = 0  # updates that were audited
    passed: int = 0  # all updates
    loss_scale: float = 1.0  # the last one

    @property
    def mode(self) -> str:
        """The precision that was in use: ``"fp32"``, ``"bf16"``, ``"fp16"``, ``"bf16-true"``."""
        for half in ("fp16", "bf16"):
            if any(layer.parameters_in == half for layer in self.layers):
                return f"{half}-true"
            if any(layer.activations_in == half for layer in self.layers):
                return half
        return "fp32"

    @property
    def suiting_scales(self) -> tuple[float, float]:
        """The least and the largest loss scale that suit fp16; NaN if there is none."""
        powers = _suiting(_layers_in(self, "fp16"))
        return (2.0 ** powers[0], 2.0 ** powers[-1]) if powers else (math.nan, math.nan)

    def advice(self, mode: str | None = None) -> list[str]:
        """Return what to do, in sentences; none if there is nothing to do.

        Args:
            mode: A mode of `Precision`, to see what it would lose before switching to it. None:
                the mode in use; if that is fp32, ``"fp16"``.

        Raises:
            PrecisionError: If there is no such mode.
        """
        if mode is None:
            mode = "fp16" if self.mode == "fp32" else self.mode
        else:
            check_choice("advice", "mode", mode, MODES, PrecisionError)
        return [*_on_values(self), *_on_range(self, mode), *_on_updates(self, mode)]

    def __str__(self) -> str:
        """Show a row of shares for each layer: of all values, then of those that are not zero."""
        half = "bf16" if self.mode.startswith("bf16") else "fp16"
        scale = self.loss_scale
        if self.mode == "fp32":  # one that would suit
            powers = _suiting(_layers_in(self, half)) or range(_FIRST_SCALE, _FIRST_SCALE + 1)
            scale = 2.0 ** min(max(_FIRST_SCALE, powers[0]), powers[-1])
        how = f"as {half} would keep them" if self.mode == "fp32" else "as kept"
        scaled = f", gradients at a loss scale of {number(scale)}" if half == "fp16" else ""
        rows: list[tuple[str, ...]] = [
            ("", "forward", "", "", "", "backward", "", "", "", "updates", ""),
            ("layer", *(2 * ("zero", "flushed", "subn.", "over")), "lost", "if bf16"),
        ]
        shown = worst_layers(self.layers, half, scale)
        for layer in shown:
            shares = [
                percent(share) if seen.total else ""
                for seen, by in ((layer.activations, 1.0), (layer.gradients, scale))
                for share in vars(seen.shares(FORMATS[half], by)).values()
            ]
            lost = (layer.lost.share(), layer.lost.share("bf16"))
            shares += [percent(share) if layer.lost.due else "" for share in lost]
            rows.append((printable(layer.name), *shares))
        lines = [f"Audit of {plural(self.updates, 'update')} in {self.mode}: values {how}{scaled}"]
        first, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
        for name, *cells in rows:
            aligned = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
            lines.append("  ".join(["", name.ljust(first), *aligned]).rstrip())
        if rest := len(self.layers) - len(shown):
            lines.append(f"  and {plural(rest, 'layer')} with smaller errors")
        return "\n- ".join(["\n".join(lines), *self.advice()])


def worst_layers(layers: Sequence[LayerAudit], half: str, scale: float) -> list[LayerAudit]:
    """Return the layers with the largest errors in a half format, at most 60, in order."""

    def badness(layer: LayerAudit) -> float:
        kept = FORMATS[half]
        errors = layer.activations.error(kept), layer.gradients.error(kept, scale)
        return max(*errors, layer.lost.share())

    worst = sorted(layers, key=badness, reverse=True)[:_ROWS]
    return [layer for layer in layers if layer in worst]


def _layers_in(report: AuditReport, mode: str) -> list[LayerAudit]:
    """Return the layers that a mode computes in half precision."""
    called = [layer for layer in report.layers if layer.activations_in is not None]
    if report.mode != mode:
        return called
    return [layer for layer in called if str(layer.activations_in) in mode]


def _suiting(layers: Sequence[LayerAudit]) -> range:
    """Return the loss scales that suit all gradients of these layers, as powers of two."""
    gradients = [seen for each in layers for seen in (each.gradients, each.parameter_gradients)]
    ranges = [seen.suiting_scales() for seen in gradients] or [range(0)]
    return range(max(each.start for each in ranges), min(each.stop for each in ranges))


def _on_values(report: AuditReport) -> Iterator[str]:
    """Say if nothing was seen, and where infinities begin."""
    if not any(layer.activations.total or layer.lost.due for layer in report.layers):
        yield (
            f"Nothing was audited in {plural(report.passed, 'update')}. Choose a smaller `every`, "
            "or train for longer."
        )
    forward = [layer for layer in report.layers if layer.activations.not_finite]
    backward = [layer for layer in report.layers if layer.gradients.not_finite]
    if forward:
        first = forward[0]
        cure = (
            "fp16 ends at 65,504: keep it in fp32, or use bf16."
            if first.activations_in == "fp16"
            else "Look there for a division by zero, or a logarithm of zero."
        )
        yield (
            f"{number(first.activations.not_finite)} outputs of layer {first.name} are infinite "
            f"or NaN, the first of {plural(len(forward), 'layer')}. {cure}"
        )
    elif backward and report.loss_scale == 1.0:  # else, a scaler finds its scale by them
        yield (
            f"{number(backward[-1].gradients.not_finite)} gradients are infinite or NaN where they "
            f"enter layer {backward[-1].name}, whose output is finite. Look at what uses its "
            "output: a square root, a logarithm or a norm at zero has no gradient."
        )


def _on_range(report: AuditReport, mode: str) -> Iterator[str]:
    """Say what the range of fp16 loses, and how to avoid that."""
    if not mode.startswith("fp16"):
        return
    layers, fp16, bf16 = _layers_in(report, mode), FORMATS["fp16"], FORMATS["bf16"]
    large = [each for each in layers if max(each.activations.powers, default=-200) >= fp16.most]
    errors = [(each, each.activations.error(fp16)) for each in layers]
    small = [each for each, error in errors if each.activations.error(bf16) < error < math.inf]
    # The fewest layers without which one loss scale suits all.
    ranges = [(each, _suiting([each])) for each in layers]
    scales = {power for _, powers in ranges for power in powers}
    misfits = [[each for each, powers in ranges if scale not in powers] for scale in sorted(scales)]
    apart = min(misfits, key=len, default=layers)
    names = {each.name for each in (*large, *small, *apart)}
    few = len(names) <= _FEW * len(layers)

    def cure(some: Sequence[LayerAudit]) -> str:
        use = f"keep {_names(some)} in fp32, or use bf16" if few else "use bf16"
        return f"({number(len(some))} of {plural(len(layers), 'layer')}): {use}."

    if large:
        yield (
            f"fp16 ends at 65,504, and the output of layer {large[0].name} is larger {cure(large)}"
        )
    if small:
        worst = max(small, key=lambda layer: layer.activations.error(fp16))
        shares = worst.activations.shares(fp16)
        yield (
            f"In fp16, {percent(shares.flushed + shares.subnormal)} of the output of layer "
            f"{worst.name} is too small to keep all digits, which no loss scale helps, as this is "
            f"lost forward {cure(small)}"
        )
    if mode != "fp16":
        return
    # In fp16 itself, zeros that were flushed look like zeros that were there.
    dead = [layer for layer in layers if layer.gradients.total and not layer.gradients.powers]
    if dead and report.mode == mode:
        yield (
            f"All gradients of {_names(dead)} are zero in fp16 at a loss scale of "
            f"{number(report.loss_scale)}. Audit an update in fp32 or bf16 to see how small they "
            "are."
        )
    if apart:
        yield f"No single loss scale suits the gradients of all layers in fp16 {cure(apart)}"
    if few:
        fitting = [each for each in layers if each.name not in names and each.gradients.powers]
        yield from _on_scale(report, _suiting(fitting))


def _on_scale(report: AuditReport, powers: range) -> Iterator[str]:
    """Say which loss scale to set, if the one in use or the usual one is far off."""
    if not powers:
        return
    least, most = (f"2^{power}" for power in (powers[0], powers[-1]))
    scale = report.loss_scale if report.mode == "fp16" else 2.0**_FIRST_SCALE
    if powers[-1] < 0:
        yield f"Gradients are too large for fp16, by a factor of 2^{-powers[-1]}: use bf16."
    elif scale < 2.0 ** powers[0]:
        yield (
            f"A loss scale of 2^{math.log2(scale):.0f} leaves gradients too small for fp16; one "
            f"between {least} and {most} suits: "
            f"GradScaler(init_scale=2.0**{powers[(len(powers) - 1) // 2]})."
        )


def _on_updates(report: AuditReport, mode: str) -> Iterator[str]:
    """Say how many updates are lost to parameters in half precision."""
    if not mode.endswith("-true"):
        return
    dtype = mode.removesuffix("-true")
    kept = None if report.mode == mode else dtype
    layers = [layer for layer in report.layers if layer.lost.due]
    due = sum(layer.lost.due for layer in layers)
    lost = sum(layer.lost.share(kept) * layer.lost.due for layer in layers)
    if lost > _LOST * due:
        worst = max(layers, key=lambda layer: layer.lost.share(kept))
        yield (
            f"{percent(lost / due)} of the updates are lost with parameters in {dtype}: too small "
            f"to change them (most in layer {worst.name}, {percent(worst.lost.share(kept))}). Keep "
            f'the parameters in fp32: Precision("{dtype}").'
        )


def _names(layers: Sequence[LayerAudit]) -> str:
    shown = ", ".join(layer.name for layer in layers[:_NAMED])
    more = len(layers) - _NAMED
    return f"{shown} and {more} more" if more > 0 else shown
