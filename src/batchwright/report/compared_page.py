"""The page of `compare`: what it says, then why."""

from collections.abc import Mapping
from typing import Any

from batchwright.report.compared import DENSE, learning_rows, sentences, speed_rows
from batchwright.report.figures import number, percent, plural
from batchwright.report.page import Section, page
from batchwright.report.sections.coverage import drawn_section
from batchwright.report.sections.learning import learning_curves
from batchwright.report.sections.precision import audit_section
from batchwright.report.sections.shapes import shape_plot
from batchwright.report.sections.waste import waste_plot

Facts = Mapping[str, Any]


def compared_page(result: Facts) -> str:
    """Write the page of a comparison.

    Args:
        result: What ``compare --json`` prints. `plans` and `audits`, which older results do not
            have, may be absent.

    Returns:
        HTML.

    Raises:
        MissingExtraError: Without jinja2 or matplotlib.
    """
    speed_head, speed = speed_rows(result)
    learning_head, learning = learning_rows(result)
    plans = result.get("plans", {})
    drawn = drawn_section(plans)
    sections = [
        Section("What it says", sentences=sentences(result)),
        Section("Speed and memory", head=speed_head, rows=speed),
        Section("Learning", head=learning_head, rows=learning),
        learning_curves(result),
        _batches(result, plans),
        *([] if drawn is None else [drawn]),
        *(audit_section(name, each) for name, each in result.get("audits", {}).items()),
        Section("How it was measured", sentences=_circumstances(result), code=result["command"]),
    ]
    return page(f"{result['task']}, compared", sections, result, about=_about(result))


def _batches(result: Facts, plans: Mapping[str, Facts]) -> Section:
    """Show what the batches of each strategy pad, what shapes they have and what steps cost."""
    padding = {each["name"]: each["padding"] for each in result["summary"] if each["name"] != DENSE}
    rows = [
        (
            name,
            number(each["num_batches"]),
            number(each["num_steps"]),
            percent(each["padding"]),
            number(each["shapes"]),
            *(number(each["step_costs"][what]) for what in ("least", "mean", "most")),
        )
        for name, each in plans.items()
    ]
    return Section(
        "Batches",
        head=(
            *("", "batches", "updates", "padding", "shapes"),
            *("padded tokens an update: least", "mean", "most"),
        ),
        rows=rows,
        plots=[
            waste_plot(padding),
            *(
                shape_plot(each["shapes_of_batches"], title=f"Batch shapes: {name}")
                for name, each in plans.items()
            ),
        ],
        note="Of the first epoch of the first seed. A dot is larger where more batches have about "
        "that shape."
        if rows
        else "",
    )


def _circumstances(result: Facts) -> list[str]:
    machine = result["machine"]
    data = (
        f"{number(result['num_samples'])} samples, {number(result['num_tokens'])} tokens, "
        f"{plural(result['epochs'], 'epoch')}; batches of at most "
        f"{number(result['max_tokens'])} tokens, updates of about {number(result['step_tokens'])}."
    )
    device = (
        f"{machine['cpu']}, {plural(result['threads'], 'thread')}, {result['device']}; torch "
        f"{machine['torch']}, {machine['date']}."
    )
    return [data, device]


def _about(result: Facts) -> str:
    names = ", ".join(each["name"] for each in result["strategies"])
    return f"{names}: the same model, data, memory budget, tokens per update and first weights."
