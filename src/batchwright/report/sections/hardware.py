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
    cores = "" if hardware["cores"] is None else f", {plural(hardware['cores'], 'core')}"
    memory = "" if hardware["memory_bytes"] is None else f", {_gibibytes(hardware)} GiB"
    speeds = "; ".join(
        f"{name} over fp32 "
        + ", ".join(f"{ratio:.2f} × at width {number(int(width))}" for width, ratio in told.items())
        for name, told in hardware["speed_over_fp32"].items()
    )
    return [f"Trained on {hardware['device']} ({hardware['name']}{cores}{memory}): {speeds}."]


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
        sentences=[hardware_sentences(hardware)[0].partition(":")[0] + "."],
        head=("products in", "of width", "times as fast as in fp32"),
        rows=rows,
        note="Measured here. A model decides which widths count.",
    )
    return [section]


def _gibibytes(hardware: Facts) -> str:
    return mebibytes(hardware["memory_bytes"] / 1024)
