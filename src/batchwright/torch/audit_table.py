"""An audit as a table in the terminal."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from batchwright._format import number, percent, plural
from batchwright.errors import MissingExtraError
from batchwright.torch.audit_advice import judged_mode, suiting
from batchwright.torch.audit_exponents import FORMATS, Exponents

if TYPE_CHECKING:
    from rich.table import Table

    from batchwright.torch.audit_report import AuditReport, LayerAudit

ROWS = 60
"""Layers that are shown; of more, the ones with the largest errors."""

_WIDTH = 120
_GROUPS = ("forward", "backward")
_COLUMNS = ("zero", "flushed", "subn.", "over")


def audit_table(report: AuditReport, mode: str | None = None) -> Table:
    """Lay out an audit: a row for each layer, its outputs, their gradients, its updates.

    Args:
        report: What was seen.
        mode: The mode to judge by; see `AuditReport.advice`.

    Returns:
        A table. Zeros are a share of all values, the rest shares of those that are not zero.

    Raises:
        MissingExtraError: Without rich.
    """
    try:
        from rich import box
        from rich.table import Table
        from rich.text import Text
    except ImportError as error:
        raise MissingExtraError(
            "The table of an audit needs the package rich, which is not installed. "
            "Run: pip install 'batchwright[cli]', or use dataclasses.asdict(report)."
        ) from error
    mode = judged_mode(report, mode)
    half = "fp16" if mode.startswith("fp16") else "bf16"
    scale = _judged_scale(report, mode)
    shown = worst_layers(report.layers, half, scale)
    out = Table(
        title=_title(report, half, scale), title_justify="left", pad_edge=False, box=box.SIMPLE_HEAD
    )
    out.add_column("layer", overflow="fold")
    for group in _GROUPS:
        for number_, column in enumerate(_COLUMNS):
            heading = f"{group if number_ == 0 else ''}\n{column}"
            out.add_column(heading, justify="right", no_wrap=True)
    out.add_column("updates\nlost", justify="right", no_wrap=True)
    out.add_column("\nif bf16", justify="right", no_wrap=True)
    for layer in shown:
        figures = [
            *_figures(layer.activations, half, 1.0),
            *_figures(layer.gradients, half, scale),
            percent(layer.lost.share()) if layer.lost.due else "",
            percent(layer.lost.share("bf16")) if layer.lost.due else "",
        ]
        out.add_row(Text(layer.name), *(Text(figure) for figure in figures))
    rest = len(report.layers) - len(shown)
    if rest:
        out.caption = f"and {plural(rest, 'layer')} with smaller errors"
    return out


def as_text(report: AuditReport) -> str:
    """Write the table and the advice as plain text, 120 columns wide."""
    table = audit_table(report)
    from rich.console import Console

    page = io.StringIO()
    Console(file=page, width=_WIDTH, color_system=None).print(table)
    advice = "".join(f"- {sentence}\n" for sentence in report.advice())
    return page.getvalue() + advice


def _title(report: AuditReport, half: str, scale: float) -> str:
    updates = plural(report.updates, "update")
    how = "as kept" if half in report.mode else f"as {half} would keep them"
    scaled = f", gradients at a loss scale of {number(scale)}" if half == "fp16" else ""
    return f"Audit of {updates} in {report.mode}: values {how}{scaled}"


def _judged_scale(report: AuditReport, mode: str) -> float:
    """Return the scale in use; before the switch to fp16, one that suits."""
    if report.mode == mode or mode != "fp16":
        return report.loss_scale
    powers = suiting([layer for layer in report.layers if layer.activations_in is not None])
    return 2.0 ** (min(16, powers[-1]) if powers[0] <= 16 else powers[0]) if powers else 2.0**16


def worst_layers(layers: tuple[LayerAudit, ...], half: str, scale: float) -> list[LayerAudit]:
    """Return the layers with the largest errors in a half format, `ROWS` at most, in sequence."""

    def badness(layer: LayerAudit) -> float:
        kept = FORMATS[half]
        return max(
            layer.activations.error(kept),
            layer.gradients.error(kept, scale),
            layer.lost.share(),
        )

    kept = sorted(layers, key=badness, reverse=True)[:ROWS]
    return [layer for layer in layers if layer in kept]


def _figures(seen: Exponents, half: str, scale: float) -> list[str]:
    if not seen.total:
        return [""] * len(_COLUMNS)
    shares = seen.shares(FORMATS[half], scale)
    return [
        percent(each) for each in (shares.zero, shares.flushed, shares.subnormal, shares.overflowed)
    ]
