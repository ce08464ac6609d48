"""Which samples are seen, and how often."""

from collections.abc import Mapping
from typing import Any

from batchwright.report.figures import number, percent, plural
from batchwright.report.page import Section
from batchwright.report.plots import curves

Facts = Mapping[str, Any]


def epoch_section(facts: Facts) -> Section:
    """Show how often an epoch holds each sample, and what it leaves out, with the reason.

    Args:
        facts: What `inspect --json` prints.
    """
    coverage = facts["coverage"]
    known = coverage["num_lengths"]
    rows = [
        (
            _times(each["times"], last=each["times"] == coverage["most"]),
            number(each["samples"]),
            "" if each["share"] is None else percent(each["share"]),
        )
        for each in coverage["times"]
    ]
    rows += [
        (f"dropped: {reason}", number(count), "")
        for reason, count in facts["dropped_by_reason"].items()
    ]
    rows += [(name, number(facts[name]), "") for name in ("truncated", "split") if facts.get(name)]
    if known is None:
        note = "How many samples the data have is not known to the file."
    else:
        note = f"Of {plural(known, 'sample')}."
    if facts["dropped"]:
        note += " Dropped ones are among those in no batch."
    return Section("Coverage", head=("", "samples", "of all"), rows=rows, note=note)


def drawn_section(plans: Mapping[str, Facts]) -> Section | None:
    """Show whom orders draw over a run, and how much of the data they admit.

    Args:
        plans: Name of a strategy → what `planned_facts` returns.

    Returns:
        None where every order visits every sample once an epoch.
    """
    drawn = {name: each for name, each in plans.items() if each["coverage"] is not None}
    paced = {name: each["pacing"] for name, each in plans.items() if each["pacing"] is not None}
    if not drawn and not paced:
        return None
    rows, seen = [], {}
    for name, each in drawn.items():
        whole = each["coverage"]
        epochs = [epoch + 1 for epoch in whole["epochs"]]
        seen[name] = [([0, *epochs], [0.0, *whole["seen"]])]
        rows.append(
            (
                name,
                number(whole["drawn"][-1]),
                percent(whole["seen"][-1]),
                number(whole["most"][-1]),
                number(whole["effective_samples"][-1]),
            )
        )
    plots = []
    if paced:
        lines = {name: [(each["progress"], each["eligible"])] for name, each in paced.items()}
        plots.append(curves(lines, across="share of the run", up="share eligible", title="Pacing"))
    if seen:
        plots.append(curves(seen, across="epochs", up="share seen so far", title="Coverage"))
    note = (
        "Over the run, of the first seed. Effective samples: as many, drawn alike, would vary as "
        "much. Strategies that are not named see every sample once an epoch."
    )
    if any(name not in drawn for name in paced):
        note += " Draws of the others are too many to be counted."
    return Section(
        "Pacing and coverage",
        head=("", "draws", "seen", "most draws of a sample", "effective samples"),
        rows=rows,
        plots=plots,
        note=note,
    )


def _times(times: int, *, last: bool) -> str:
    if times == 0:
        return "in no batch"
    told = "once" if times == 1 else f"{number(times)} times"
    return f"{told} or more" if last else told
