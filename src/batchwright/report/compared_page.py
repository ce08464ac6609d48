"""The page of `compare`: what it says, then why."""

from collections.abc import Iterator, Mapping
from typing import Any

from batchwright._format import number, percent, plural
from batchwright._states import built
from batchwright.report.compared import DENSE, learning_rows, sentences, speed_rows
from batchwright.report.page import Section, page
from batchwright.report.parts import DOTS, shape_plots, waste_plots
from batchwright.report.plots import Curve, curves
from batchwright.stats.shapes import ShapeStats

Facts = Mapping[str, Any]

_BEGINNING = 2
"""Evaluations that would hide all later differences: before and soon after training begins."""

_LOST = ("lost", "lost_in_bf16")
_SHARES = ("zero", "flushed", "subnormal", "overflowed")


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
    sections = [
        Section("What it says", sentences=sentences(result)),
        Section("Speed and memory", head=speed_head, rows=speed),
        Section("Learning", head=learning_head, rows=learning),
        _learning_curves(result),
        _batches(result, plans),
        *_drawn(plans),
        *(_audit(name, each) for name, each in result.get("audits", {}).items()),
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
    shapes = {name: built(each["shapes_of_batches"], ShapeStats) for name, each in plans.items()}
    shape_dots = shape_plots(shapes, before="Batch shapes: ")
    note = "Of the first epoch of the first seed." if rows else ""
    if shape_dots:
        note += f" Rows against length, one plot where strategies have the same. {DOTS}"
    return Section(
        "Batches",
        head=(
            *("", "batches", "updates", "padding", "shapes"),
            *("padded tokens an update: least", "mean", "most"),
        ),
        rows=rows,
        plots=[*waste_plots(padding), *shape_dots],
        note=note,
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


def _drawn(plans: Mapping[str, Facts]) -> Iterator[Section]:
    """Show which samples orders draw over a run, if some order draws."""
    drawn = {name: each for name, each in plans.items() if each["coverage"] is not None}
    paced = {name: each["pacing"] for name, each in plans.items() if each["pacing"] is not None}
    if not drawn and not paced:
        return
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
        plots.append(curves("Pacing", lines, across="share of the run", up="share eligible"))
    if seen:
        plots.append(curves("Coverage", seen, across="epochs", up="share seen so far"))
    note = (
        "Over the run, of the first seed. Effective samples: equally frequent samples whose mean "
        "would vary as much. Strategies that are not listed see every sample once an epoch."
    )
    if any(name not in drawn for name in paced):
        note += " Draws of the others are too many to be counted."
    yield Section(
        "Pacing and coverage",
        head=("", "draws", "seen", "most draws of a sample", "effective samples"),
        rows=rows,
        plots=plots,
        note=note,
    )


def _learning_curves(result: Facts) -> Section:
    """Draw the metric against time and against tokens, a line for each run."""
    runs = result["runs"] or [result["unfinished"]]
    names = [each["name"] for each in runs[0] if each["name"] != DENSE]
    plots = []
    for what, across, title in (
        ("seconds", "seconds of training", "By time"),
        ("tokens", "real tokens", "By tokens"),
    ):
        lines: dict[str, list[Curve]] = {name: [] for name in names}
        for each in (arm for run in runs for arm in run if arm["name"] in lines):
            seen = [one for one in each["evaluations"] if one["metric"] is not None]
            points = [one[what] for one in seen], [one["metric"] for one in seen]
            lines[each["name"]].append(points)
        plots.append(curves(title, lines, across=across, up=result["metric"], skipped=_BEGINNING))
    note = (
        "A line for each run; values before and early in training may lie outside. "
        "Intervals are of 95 %, over seeds, paired."
    )
    return Section(plots=plots, note=note)


def _audit(name: str, audit: Facts) -> Section:
    """Show what a strategy lost in half precision, layer by layer."""
    title = f"Precision audit: {name}"
    if "failed" in audit:
        return Section(title, sentences=[f"It could not be audited: {audit['failed']}"])
    rows = [
        (
            each["name"],
            *_shares(each["activations"]),
            *_shares(each["gradients"]),
            *("" if each[name] is None else percent(each[name]) for name in _LOST),
        )
        for each in audit["layers"]
    ]
    head = (
        "layer",
        *(f"{way}: {column}" for way in ("forward", "backward") for column in _SHARES),
        *("updates lost", "if bf16 weights"),
    )
    scale = f", loss scale {number(audit['loss_scale'])}" if audit["mode"] == "fp16" else ""
    note = (
        f"{plural(audit['updates'], 'update')} in {audit['mode']}{scale}, after the last run. "
        "Zero: share of all values; the others: of those that are not zero. Flushed: became zero. "
        "Subnormal: kept with fewer digits."
    )
    if rest := audit["num_layers"] - len(rows):
        note += f" And {plural(rest, 'layer')} with smaller errors."
    said = [*(audit["advice"] or [f"Nothing speaks against {audit['mode']}."])]
    if audit["advice_on_fp16"] is not None:
        said += audit["advice_on_fp16"] or ["Nothing that was seen speaks against fp16 either."]
    return Section(title, sentences=said, head=head, rows=rows, note=note)


def _shares(seen: Facts | None) -> list[str]:
    return ["" if seen is None else percent(seen[column]) for column in _SHARES]
