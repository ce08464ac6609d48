"""What half precision loses, layer by layer."""

from collections.abc import Mapping
from typing import Any

from batchwright.report.figures import number, percent, plural
from batchwright.report.page import Section

Facts = Mapping[str, Any]

_COLUMNS = ("zero", "flushed", "subnormal", "overflowed")


def audit_section(name: str, audit: Facts) -> Section:
    """Show the audit of a strategy that trained in half precision.

    Args:
        name: Of the strategy.
        audit: What `audited` of `batchwright.compare.probes` returns.
    """
    title = f"Precision audit: {name}"
    if "failed" in audit:
        return Section(title, sentences=[f"It could not be audited: {audit['failed']}"])
    rows = [
        (
            each["name"],
            *_shares(each["activations"]),
            *_shares(each["gradients"]),
            "" if each["lost"] is None else percent(each["lost"]),
            "" if each["lost_in_bf16"] is None else percent(each["lost_in_bf16"]),
        )
        for each in audit["layers"]
    ]
    head = (
        "layer",
        *(f"{way}: {column}" for way in ("forward", "backward") for column in _COLUMNS),
        *("updates lost", "if bf16 weights"),
    )
    scale = f", loss scale {number(audit['loss_scale'])}" if audit["mode"] == "fp16" else ""
    rest = audit["num_layers"] - len(rows)
    note = (
        f"{plural(audit['updates'], 'update')} in {audit['mode']}{scale}, after the last run. "
        "Zero: of all values; the rest: of those that are not. Flushed: became zero. Subnormal: "
        "kept with fewer digits."
    )
    if rest:
        note += f" And {plural(rest, 'layer')} with smaller errors."
    said = audit["advice"] or [f"Nothing speaks against {audit['mode']}."]
    if audit["advice_on_fp16"] is not None:
        said = [
            *said,
            *(audit["advice_on_fp16"] or ["Nothing that was seen speaks against fp16 either."]),
        ]
    return Section(title, sentences=said, head=head, rows=rows, note=note)


def _shares(seen: Facts | None) -> list[str]:
    if seen is None:
        return [""] * len(_COLUMNS)
    return [percent(seen[column]) for column in _COLUMNS]
