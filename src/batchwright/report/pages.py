"""The pages of `compare` and of `advise`: what to do first, then why."""

from collections.abc import Mapping
from typing import Any

from batchwright.report.advised import paragraph
from batchwright.report.compared import DENSE, interval, learning_rows, sentences, speed_rows
from batchwright.report.figures import number, plural
from batchwright.report.page import Card, Section, page
from batchwright.report.plots import bars, curves, steps
from batchwright.report.sample_sections import sample_sections

Facts = Mapping[str, Any]

_KINDS = {
    "plain": "plain batches",
    "grouped": "grouped by length",
    "planned": "planned (TokenBudget)",
    "packed": "packed rows",
    "buckets": "8 shapes (Buckets)",
}


def compared_page(result: Facts) -> str:
    """Write the page of a comparison.

    Args:
        result: What ``compare --json`` prints.

    Returns:
        HTML.

    Raises:
        MissingExtraError: Without jinja2 or matplotlib.
    """
    runs = result["runs"] or [result["unfinished"]]
    names = [each["name"] for each in runs[0] if each["name"] != DENSE]
    speed_head, speed = speed_rows(result)
    learning_head, learning = learning_rows(result)
    metric = result["metric"]

    def lines(what: str) -> dict[str, list[tuple[list[float], list[float]]]]:
        found: dict[str, list[tuple[list[float], list[float]]]] = {name: [] for name in names}
        for run in runs:
            for each in run:
                if each["name"] in found:
                    seen = [one for one in each["evaluations"] if one["metric"] is not None]
                    points = [one[what] for one in seen], [one["metric"] for one in seen]
                    found[each["name"]].append(points)
        return found

    sections = [
        Section("What it says", sentences=sentences(result)),
        Section("Speed and memory", head=speed_head, rows=speed),
        Section("Learning", head=learning_head, rows=learning),
        Section(
            plots=[
                curves(lines("seconds"), across="seconds of training", up=metric, title="By time"),
                curves(lines("tokens"), across="real tokens", up=metric, title="By tokens"),
            ],
            note="A line for each run. Intervals are of 95 %, over seeds, paired.",
        ),
        Section(
            "How it was measured",
            sentences=_circumstances(result),
            code=result["command"],
        ),
    ]
    return page(f"{result['task']}, compared", sections, result, about=_about(result))


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
    histogram = data["histogram"]
    sections = [
        Section(
            cards=[
                Card(each["verdict"], each["technique"], paragraph(each))
                for each in result["advice"]
            ]
        ),
        Section("To paste", code=result["snippet"], note="What only you know is in capitals."),
        Section(
            "The data",
            plots=[
                steps(histogram["edges"], histogram["counts"], across="tokens", title="Lengths"),
                bars(padding, across="padding", title="What batches pad"),
            ],
        ),
    ]
    sections += sample_sections(result)
    if data["dial"]:
        sections.append(
            Section(
                "The mixing dial",
                head=("mixing", "padding", "dispersion of updates"),
                rows=[
                    (
                        str(each["mixing"]),
                        f"{1 - each['efficiency']:.1%}",
                        f"{each['dispersion']:.2f}",
                    )
                    for each in data["dial"]
                ],
                note="Updates of 8 batches. Dispersion: 1 is a plain shuffle, less is more even.",
            )
        )
    if result["trials"]:
        sections.append(
            Section(
                "Trials",
                head=("strategy", "precision", "updates", "tokens/s", "over the first"),
                rows=[
                    (
                        each["name"],
                        each["precision"],
                        str(each["updates"]),
                        f"{each['tokens_per_second']:,.0f}",
                        interval({**each["speed"], "mean": each["speed"]["ratio"]}),
                    )
                    for each in result["trials"]
                ],
            )
        )
    about = (
        f"{number(data['num_samples'])} samples, {number(data['num_tokens'])} tokens; batches of "
        f"{number(data['max_tokens'])} tokens."
    )
    return page("What pays here", sections, result, about=about)


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
