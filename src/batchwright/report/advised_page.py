"""The page of `advise`: what to do first, then why."""

from collections.abc import Mapping
from typing import Any

from batchwright.report.advised import paragraph
from batchwright.report.figures import number
from batchwright.report.page import Card, Section, page
from batchwright.report.sections.dial import dial_section
from batchwright.report.sections.hardware import hardware_sections
from batchwright.report.sections.lengths import column_section, length_plot
from batchwright.report.sections.model import model_sections
from batchwright.report.sections.samples import sample_sections
from batchwright.report.sections.trials import trial_sections
from batchwright.report.sections.waste import waste_plots

Facts = Mapping[str, Any]

_KINDS = {
    "plain": "plain batches",
    "grouped": "grouped by length",
    "planned": "TokenBudget",
    "packed": "packed rows",
    "buckets": "8 shapes (Buckets)",
}


def advised_page(result: Facts) -> str:
    """Write the page of advice.

    Args:
        result: What ``advise --json`` prints.

    Returns:
        HTML.

    Raises:
        MissingExtraError: Without jinja2 or matplotlib.
    """
    data = result["data"]
    padding = {
        label: 1 - data["efficiency"][kind]
        for kind, label in _KINDS.items()
        if kind in data["efficiency"]
    }
    lengths = length_plot(data["histogram"], unit="tokens")
    sections = [
        Section(
            cards=[
                Card(each["verdict"], each["technique"], paragraph(each))
                for each in result["advice"]
            ]
        ),
        Section("To paste", code=result["snippet"], note="What only you know is in capitals."),
        Section("The data", plots=[*([lengths] if lengths else []), *waste_plots(padding)]),
    ]
    sections += [*column_section(data["columns"]), *sample_sections(result)]
    if data["dial"]:
        sections.append(dial_section(data["dial"], note="Updates of 8 batches."))
    sections += [*trial_sections(result), *model_sections(result["model"])]
    sections += hardware_sections(result["hardware"])
    about = (
        f"{number(data['num_samples'])} samples, {number(data['num_tokens'])} tokens; batches of "
        f"{number(data['max_tokens'])} tokens."
    )
    return page("What pays here", sections, result, about=about)
