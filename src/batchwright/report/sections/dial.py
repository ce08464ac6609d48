"""The mixing dial: what each position costs."""

from collections.abc import Mapping, Sequence
from typing import Any

from batchwright.report.figures import number, percent
from batchwright.report.page import Section
from batchwright.report.plots import dial_points


def dial_section(positions: Sequence[Mapping[str, Any]], *, note: str = "") -> Section:
    """Show the positions of the mixing dial: padding beside how unlike updates are.

    Args:
        positions: Fields of `DialPosition` each, at least one.
        note: What updates they are of.
    """
    told = "Dispersion: 1 is a plain shuffle, less is more even."
    return Section(
        "Mixing dial",
        head=("mixing", "padding", "dispersion", "batches"),
        rows=[
            (
                str(each["mixing"]),
                percent(1 - each["efficiency"]),
                f"{each['dispersion']:.2f}",
                number(each["num_batches"]),
            )
            for each in positions
        ],
        plots=[dial_points(positions)],
        note=f"{note} {told}".strip(),
    )
