"""The page of `inspect`: what to do first about a plan, then why."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from batchwright.report.figures import number, plural
from batchwright.report.first_steps import first_steps
from batchwright.report.glyphs import UNICODE
from batchwright.report.page import Section, page
from batchwright.report.rows import batch_rows, budget_rows, layout_line, mix_rows, origin_rows
from batchwright.report.sections.cost import cost_section, rank_section
from batchwright.report.sections.coverage import epoch_section
from batchwright.report.sections.dial import dial_section
from batchwright.report.sections.lengths import length_section
from batchwright.report.sections.shapes import shape_section
from batchwright.report.sections.waste import waste_section

Facts = Mapping[str, Any]


def inspected_page(facts: Facts) -> str:
    """Write the page of a saved plan.

    Args:
        facts: What ``inspect --json`` prints, with SOURCE or without.

    Returns:
        HTML.

    Raises:
        MissingExtraError: Without jinja2 or matplotlib.
    """
    unit = facts["unit"]
    sections = [Section("What to do first", sentences=first_steps(facts))]
    if "lengths" in facts:
        sections += [length_section(facts["lengths"], unit=unit), waste_section(facts)]
    if "shapes_of_batches" in facts:
        sections.append(shape_section(facts["shapes_of_batches"], unit=unit))
    if facts.get("dial"):
        ranks, slots = plural(facts["world_size"], "rank"), plural(facts["accumulate"], "batch")
        sections.append(dial_section(facts["dial"], note=f"Updates of {ranks} × {slots}."))
    if "step_costs" in facts:
        sections.append(cost_section(facts["step_costs"], unit=unit))
        each = rank_section(facts["step_costs"], unit=unit)
        sections += [] if each is None else [each]
    sections += [epoch_section(facts), _figures(dict(facts))]
    about = f"{number(facts['num_batches'])} batches of {plural(facts['num_samples'], 'sample')}: "
    return page(
        f"Plan {Path(facts['plan']).name}",
        sections,
        facts,
        about=f"{about}{layout_line(dict(facts))}.",
    )


def _figures(facts: dict[str, Any]) -> Section:
    """List what the report in the terminal lists."""
    rows = batch_rows(facts, UNICODE)
    if "lengths" in facts:
        rows += [*budget_rows(facts), *mix_rows(facts, UNICODE)]
    rows += origin_rows(facts)
    return Section(
        "The plan in figures", head=("", "", "what it means"), rows=rows, is_wrapped=True
    )
