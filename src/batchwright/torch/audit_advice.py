"""What follows from an audit: each kind of advice is one function from a report to a sentence."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from batchwright._format import number, percent, plural
from batchwright.errors import PrecisionError
from batchwright.torch.audit_exponents import FORMATS, suiting_powers
from batchwright.torch.update.modes import MODES

if TYPE_CHECKING:
    from batchwright.torch.audit_report import AuditReport, LayerAudit

FEW = 0.25
"""Up to this share of the layers is kept in fp32; beyond, bf16 is the simpler choice."""

LOST = 0.1
"""More than this share of updates lost is worth a word: in single floats it is next to none."""

_FIRST_SCALE = 16  # torch.amp.GradScaler begins at 2^16
_SHOWN = 6


def advise(report: AuditReport, mode: str | None = None) -> list[str]:
    """Give all advice on a mode; see `AuditReport.advice`."""
    chosen = judged_mode(report, mode)
    return [said for each in _KINDS if (said := each(report, chosen)) is not None]


def judged_mode(report: AuditReport, mode: str | None) -> str:
    """Return the mode to judge: fp32 needs no advice, a switch to fp16 does.

    Raises:
        PrecisionError: If there is no such mode.
    """
    if mode is not None and mode not in MODES:
        raise PrecisionError(f"advice({mode!r}): expected one of {', '.join(MODES)}.")
    if mode is not None:
        return mode
    return "fp16" if report.mode == "fp32" else report.mode


def layers_in(report: AuditReport, mode: str) -> list[LayerAudit]:
    """Return the layers whose values a mode keeps in half floats.

    Where it is in use, those that autocasting left in single floats are in no danger.
    """
    in_use = report.mode == mode
    return [
        layer
        for layer in report.layers
        if layer.activations_in is not None and (not in_use or layer.activations_in in mode)
    ]


def suiting(layers: Sequence[LayerAudit]) -> range:
    """List the loss scales that suit all of these layers, as powers of two."""
    ranges = [
        suiting_powers(seen)
        for layer in layers
        for seen in (layer.gradients, layer.parameter_gradients)
    ]
    if not ranges:
        return range(0)
    return range(max(each.start for each in ranges), min(each.stop for each in ranges))


def exceptions(report: AuditReport, mode: str | None = None) -> tuple[str, ...]:
    """Name the layers to keep in fp32; see `AuditReport.keep_in_fp32`."""
    chosen = judged_mode(report, mode)
    if not chosen.startswith("fp16"):
        return ()
    layers = layers_in(report, chosen)
    misfits = [*_too_small(layers), *_too_large(layers), *_out_of_scale(layers)]
    names = tuple(layer.name for layer in layers if layer in misfits)
    return names if len(names) <= FEW * len(layers) else ()


def _nothing_seen(report: AuditReport, _: str) -> str | None:
    if any(layer.activations.total or layer.lost.due for layer in report.layers):
        return None
    return (
        f"Nothing was audited yet: {plural(report.passed, 'update')} went by. Choose a smaller "
        "`every`, or train on."
    )


def _not_finite(report: AuditReport, _: str) -> str | None:
    """Name where infinities begin: forward, the first layer in sequence; backward, the last."""
    forward = [layer for layer in report.layers if layer.activations.not_finite]
    backward = [layer for layer in report.layers if layer.gradients.not_finite]
    if forward:
        first = forward[0]
        cure = (
            "fp16 ends at 65,504: keep it in fp32, or use bf16."
            if first.activations_in == "fp16"
            else "Look there for a division by zero, or a logarithm of zero."
        )
        return (
            f"{number(first.activations.not_finite)} values that layer {first.name} gives are "
            f"infinite or no number, the first of {plural(len(forward), 'layer')}. {cure}"
        )
    if backward and report.loss_scale == 1.0:  # else, they are how a scaler finds its level
        return (
            f"{number(backward[-1].gradients.not_finite)} gradients are infinite or no number "
            f"where they enter layer {backward[-1].name}; what it gives is finite. Look at what "
            "uses it: a square root, a logarithm or a norm at zero has no gradient."
        )
    return None


def _forward_too_small(report: AuditReport, mode: str) -> str | None:
    layers = layers_in(report, mode)
    small = _too_small(layers) if mode.startswith("fp16") else []
    if not small:
        return None
    worst = max(small, key=lambda layer: layer.activations.error(FORMATS["fp16"]))
    shares = worst.activations.shares(FORMATS["fp16"])
    return (
        f"In fp16, {percent(shares.flushed + shares.subnormal)} of what layer {worst.name} gives "
        f"is too small to be kept in full ({_of(small, layers)}). No loss scale helps, as this is "
        f"lost forward: {_cure(small, report, mode)}."
    )


def _forward_too_large(report: AuditReport, mode: str) -> str | None:
    layers = layers_in(report, mode)
    large = _too_large(layers) if mode.startswith("fp16") else []
    if not large:
        return None
    return (
        f"fp16 ends at 65,504, and layer {large[0].name} gives more ({_of(large, layers)}): "
        f"{_cure(large, report, mode)}."
    )


def _all_gradients_zero(report: AuditReport, mode: str) -> str | None:
    """In half floats, what became zero cannot be told from what was zero."""
    layers = layers_in(report, mode) if report.mode == mode == "fp16" else []
    dead = [layer for layer in layers if layer.gradients.total and not layer.gradients.powers]
    if not dead:
        return None
    return (
        f"All gradients of {_names(dead)} are zero in fp16 at a loss scale of "
        f"{number(report.loss_scale)}. Audit an update in fp32 or bf16 to see how small they are."
    )


def _gradients_far_apart(report: AuditReport, mode: str) -> str | None:
    """Say which layers no common loss scale suits."""
    layers = layers_in(report, mode) if mode == "fp16" else []
    misfits = _out_of_scale(layers)
    if not misfits:
        return None
    return (
        "No single loss scale suits the gradients of all layers in fp16 "
        f"({_of(misfits, layers)} have others): {_cure(misfits, report, mode)}."
    )


def _loss_scale(report: AuditReport, mode: str) -> str | None:
    """Say which loss scale to set, where the usual one is far off."""
    powers = _common_scales(report, mode)
    if not powers:
        return None
    low, high = 2.0 ** powers[0], 2.0 ** powers[-1]
    suits = f"one between {_scale(low)} and {_scale(high)} suits: GradScaler({_init(powers)})"
    if high < 1:
        return f"Gradients are too large for fp16, by a factor of {_scale(1 / high)}: use bf16."
    if report.mode == "fp16" and report.loss_scale < low:
        given = _scale(report.loss_scale)
        return f"The loss scale of {given} leaves gradients too small for fp16; {suits}."
    if report.mode != "fp16" and powers[0] > _FIRST_SCALE:
        return f"A loss scale of 2^{_FIRST_SCALE} leaves gradients too small for fp16; {suits}."
    return None


def _lost_updates(report: AuditReport, mode: str) -> str | None:
    if not mode.endswith("-true"):
        return None
    kept = None if report.mode == mode else mode.removesuffix("-true")
    layers = [layer for layer in report.layers if layer.lost.due]
    due = sum(layer.lost.due for layer in layers)
    lost = sum(layer.lost.share(kept) * layer.lost.due for layer in layers)
    if not due or lost <= LOST * due:
        return None
    worst = max(layers, key=lambda layer: layer.lost.share(kept))
    dtype = mode.removesuffix("-true")
    return (
        f"{percent(lost / due)} of the updates are lost with parameters in {dtype}: too small "
        f"beside the parameter to change it (most in layer {worst.name}, "
        f'{percent(worst.lost.share(kept))}). Keep the parameters in fp32: Precision("{dtype}").'
    )


_KINDS: tuple[Callable[[AuditReport, str], str | None], ...] = (
    _nothing_seen,
    _not_finite,
    _forward_too_large,
    _forward_too_small,
    _all_gradients_zero,
    _gradients_far_apart,
    _loss_scale,
    _lost_updates,
)


def _too_small(layers: Sequence[LayerAudit]) -> list[LayerAudit]:
    """Return the layers whose output fp16 keeps worse than bf16 would, for want of range."""
    fp16, bf16 = FORMATS["fp16"], FORMATS["bf16"]
    return [
        layer
        for layer in layers
        if layer.activations.error(bf16) < layer.activations.error(fp16) < math.inf
    ]


def _too_large(layers: Sequence[LayerAudit]) -> list[LayerAudit]:
    fp16 = FORMATS["fp16"]
    return [
        layer
        for layer in layers
        if layer.activations.powers and max(layer.activations.powers) >= fp16.most
    ]


def _out_of_scale(layers: Sequence[LayerAudit]) -> list[LayerAudit]:
    """Return the fewest layers without which one loss scale suits all."""
    ranges = [(layer, suiting([layer])) for layer in layers]
    candidates = sorted({power for _, powers in ranges for power in powers})
    misfits = [[layer for layer, powers in ranges if each not in powers] for each in candidates]
    return min(misfits, key=len, default=list(layers))


def _common_scales(report: AuditReport, mode: str) -> range:
    """List the loss scales to choose from; none where bf16 is the better choice."""
    layers = layers_in(report, mode) if mode == "fp16" else []
    misfits = [*_too_small(layers), *_too_large(layers), *_out_of_scale(layers)]
    if misfits and not exceptions(report, mode):
        return range(0)
    return suiting([layer for layer in layers if layer not in misfits and layer.gradients.powers])


def _cure(misfits: Sequence[LayerAudit], report: AuditReport, mode: str) -> str:
    if exceptions(report, mode):
        return f"keep {_names(misfits)} in fp32, or use bf16"
    return "use bf16, which has the range"


def _of(some: Sequence[LayerAudit], layers: Sequence[LayerAudit]) -> str:
    return f"{number(len(some))} of {plural(len(layers), 'layer')}"


def _names(layers: Sequence[LayerAudit]) -> str:
    shown = ", ".join(layer.name for layer in layers[:_SHOWN])
    more = len(layers) - _SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def _init(powers: range) -> str:
    """Write a scale in the middle of those that suit."""
    return f"init_scale=2.0**{powers[(len(powers) - 1) // 2]}"


def _scale(scale: float) -> str:
    return number(scale) if 1 <= scale < 2**10 else f"2^{round(math.log2(scale))}"
