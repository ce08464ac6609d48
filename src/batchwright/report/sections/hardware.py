"""What the machine is, and which types are quick on it."""

from collections.abc import Mapping
from typing import Any

from batchwright.report.figures import mebibytes, number, plural
from batchwright.report.page import Section

Facts = Mapping[str, Any]


def hardware_sentences(hardware: Facts | None) -> list[str]:
    """Say what trains; nothing without torch.

    Args:
        hardware: What ``advise --json`` prints under ``hardware``.
    """
    if hardware is None:
        return []
    speeds = "; ".join(
        f"{name} over fp32 "
        + ", ".join(f"{ratio:.2f} × at width {number(int(width))}" for width, ratio in told.items())
        for name, told in hardware["speed_over_fp32"].items()
    )
    return [f"Machine: {_named(hardware)}; {speeds}."]


def hardware_sections(hardware: Facts | None) -> list[Section]:
    """Show the machine, and how quick products are in each type."""
    if hardware is None:
        return []
    rows = [
        (name, number(int(width)), f"{ratio:.2f}")
        for name, told in hardware["speed_over_fp32"].items()
        for width, ratio in told.items()
    ]
    section = Section(
        "The machine",
        sentences=[f"{_named(hardware)}."],
        head=("products in", "of width", "times as fast as in fp32"),
        rows=rows,
        note="Measured here. A model decides which widths count.",
    )
    return [section]


def _named(hardware: Facts) -> str:
    known = [hardware["name"]]
    if hardware["cores"] is not None:
        known.append(plural(hardware["cores"], "core"))
    if hardware["memory_bytes"] is not None:
        known.append(f"{mebibytes(hardware['memory_bytes'] / 1024)} GiB")
    return f"{hardware['device']} ({', '.join(known)})"
