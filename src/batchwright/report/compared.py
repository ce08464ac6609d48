"""What a comparison of strategies says."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from batchwright import _format
from batchwright._format import number, percent, plural
from batchwright._states import built
from batchwright.report.plots import Curve, Saved, curves, runs
from batchwright.report.sections import DOTS, Bar, Head, Picture, Report, Section, shape_plots
from batchwright.stats.shapes import ShapeStats

Facts = Mapping[str, Any]
"""What ``compare --json`` prints, or a part of it. Older results lack `plans` and `audits`."""

WORTH_SAYING = 0.03  # ratios nearer to 1 than this are called no difference
EQUAL = 1e-9  # metrics nearer to one another than this are the same
DENSE, TWIN = "dense limit", "its own twin"
_BEGINNING = 2  # evaluations whose values would hide all later differences


def compared_report(result: Facts) -> Report:
    """Describe a comparison."""
    said = sentences(result)
    facts = {**result, "said": said}
    if not result["summary"]:
        return Report("", "", facts, [], [])
    plans, machine = result.get("plans", {}), result["machine"]
    data = (
        f"{number(result['num_samples'])} samples, {number(result['num_tokens'])} tokens, "
        f"{plural(result['epochs'], 'epoch')}; batches of at most "
        f"{number(result['max_tokens'])} tokens, updates of about {number(result['step_tokens'])}."
    )
    device = (
        f"{machine['cpu']}, {plural(result['threads'], 'thread')}, {result['device']}; torch "
        f"{machine['torch']}, {machine['date']}."
    )
    names = ", ".join(each["name"] for each in result["strategies"])
    about = f"{names}: the same model, data, memory budget, tokens per update and first weights."
    results = _results(result)
    sections = [
        _learning_curves(result),
        replace(results, bars=()),
        Section("What the figures say", sentences=said),
        _folded(_speed(result)),
        _folded(learning_section(result)),
        _folded(_batches(plans)),
        _folded(_drawn(plans)),
        *(_folded(_audit(name, each)) for name, each in result.get("audits", {}).items()),
        Section(
            "How it was measured",
            sentences=[data, device, _processes(result)],
            code=[result["command"]],
            note=about,
            is_folded=True,
        ),
    ]
    title = f"{result['task']}: {len(result['strategies'])} ways to train it, compared"
    if result["runs"]:
        title += f" in {plural(len(result['runs']), 'run')}"
    return Report(title, "", facts, sections, [results], _head(result, said))


def _folded(section: Section) -> Section:
    return replace(section, is_folded=True)


def _head(result: Facts, said: Sequence[str]) -> Head:
    """Say first what to do, and draw how long each strategy takes."""
    best = _best(result)
    text, detail = said[0], ""
    if best is not None:
        time, speed = best["time"], best["speed"]
        text = f"Use {best['name']}: {_target(result)} in {time['mean']:.2f} of the time"
        detail = f"{interval(speed)} × as many real tokens a second."
    return Head(
        text,
        detail=detail,
        verdict="cannot tell" if best is None else "use",
        picture=_times(result, best),
        more="All figures: --json. Curves, batches and shapes: --html FILE.",
    )


def _best(result: Facts) -> Facts | None:
    reached = [each for each in _strategies(result)[1:] if not _shows_no_gain(each["time"])]
    return min(reached, key=lambda each: each["time"]["mean"], default=None)


def _times(result: Facts, best: Facts | None) -> Picture | None:
    """Draw the time that each strategy needs to the target."""
    strategies = _strategies(result)
    if strategies[0]["time"] is None or len(strategies) < 2:
        return None
    bars = [
        Bar(
            each["name"],
            arrival(each),
            each["time"]["mean"] if each["time"] else 0.0,
            is_quiet=each is not best,
        )
        for each in strategies
    ]
    bars[0] = replace(bars[0], figure="1")
    return Picture(bars, title=f"Time to {_target(result)}; {_first(result)} is 1")


def _results(result: Facts) -> Section:
    """Show the figures that matter of each strategy."""
    strategies, first = _strategies(result), _first(result)
    rows = [
        {
            "": each["name"],
            "time": arrival(each),
            "tokens/s": f"{each['speed']['mean']:.2f}",
            "padding": percent(round(each["padding"], 4)),
            "in the end": _plain(each["metric"], ".4f")
            or (f"failed {each['failed']} ×" if each["failed"] else ""),
        }
        for each in strategies
    ]
    note = (
        f"time: to {_target(result)}, with its 95 % interval; tokens/s: real ones; {first} is 1. "
        f"In the end: {result['metric']}, {result['better']} is better."
    )
    times = [each["time"]["mean"] if each["time"] else 0.0 for each in strategies]
    bars = [each / max(times) for each in times] if any(times) else []
    return Section(f"Beside {first}", rows=rows, bars=bars, note=note)


def _processes(result: Facts) -> str:
    """Say whether strategies could find what others had prepared; older results do not say it."""
    if result.get("shared_process", True):
        return (
            "All strategies shared a process, and what libraries keep for each shape: one may look "
            "faster than it is alone."
        )
    return "Each strategy trained in a process of its own."


def _speed(result: Facts) -> Section:
    """Show what each strategy does with its time and memory."""
    of = plural(len(result["runs"]), "run") if result["runs"] else "a part of a run"
    rows = [
        {
            "": each["name"],
            "precision": each["precision"],
            "tokens/s": f"{each['tokens_per_second']:,.0f}",
            f"over {_first(result)}": interval(each["speed"]),
            "of limit": _plain(each["of_limit"] and each["of_limit"]["mean"]),
            "padding": percent(round(each["padding"], 4)),
            "worst/budget": f"{each['worst_batch']:.2f}",
            "peak MB of tensors": _plain(each["peak_bytes"] and each["peak_bytes"] / 1e6, ",.0f"),
        }
        for each in result["summary"]
    ]
    title = f"Speed and memory: {of} of {number(result['num_tokens'])} tokens"
    note = (
        "tokens/s: real tokens. of limit: of batches of the planned shapes without padding. "
        "worst: the largest batch."
    )
    return Section(f"{title} × {result['epochs']}", rows=rows, note=note)


def learning_section(result: Facts) -> Section:
    """Show what each strategy reached, and when."""
    rows = [
        {
            "": each["name"],
            "updates": f"{each['updates']:,}",
            "length mix": _plain(each["dispersion"]),
            "seconds": f"{each['seconds']:.1f}",
            f"final {result['metric']}": _plain(each["metric"], ".4f")
            or (f"failed {each['failed']} ×" if each["failed"] else ""),
            f"gain over {_first(result)}": interval(each["gain"], sign="+", digits=4),
            f"time to {_target(result)}": arrival(each),
            "tokens to it": _plain(each["tokens"] and each["tokens"]["mean"]),
        }
        for each in _strategies(result)
    ]
    note = (
        "(low – high): 95 % interval over seeds, paired. length mix: how unlike updates are; 1 is "
        "a plain shuffle. time: of training only."
    )
    title = f"Learning: {result['metric']}, {result['better']} is better"
    return Section(title, rows=rows, note=note)


def sentences(result: Facts) -> list[str]:
    """Say in words what the figures show, also where a strategy does worse."""
    if not result["summary"]:
        return []
    if [each["name"] for each in result["summary"][1:2]] == [TWIN]:
        return [_of_twins(*result["summary"][:2])]
    if not result["runs"]:
        return ["No run is complete yet: these are speeds so far."]
    others = _strategies(result)[1:]
    said = [_sentence(each, result) for each in others]
    if slow := [each["name"] for each in others if _shows_no_gain(each["time"])]:
        said.append(f"Not shown to reach {_target(result)} sooner: {', '.join(slow)}.")
    if len(result["runs"]) < 2:
        said.append("One run of one seed: small differences may be chance. For more runs: --seeds.")
    return said


def _of_twins(first: Facts, twin: Facts) -> str:
    """Say whether a strategy and its own twin measure the same, as they should."""
    speed = twin["speed"]
    is_near, limit = abs(speed["mean"] - 1) < WORTH_SAYING, percent(WORTH_SAYING)
    is_passed = is_near and (speed["low"] is None or _includes(speed, 1.0))
    verdict = "failed: the machine has other load, or runs are too short"
    return (
        f"Self-check {'passed' if is_passed else verdict}. {first['name']} and {twin['name']} are "
        f"the same: the ratio of their speeds is {interval(speed, digits=3)}, expected within "
        f"{limit} of 1 and with 1 in its interval, if there is one. Smaller ratios mean nothing."
    )


def _sentence(each: Facts, result: Facts) -> str:
    speed, gain, first = each["speed"], each["gain"], _first(result)
    what = f"{each['name']} trains {interval(speed)} × as many real tokens a second as {first}"
    if abs(speed["mean"] - 1) < WORTH_SAYING or _includes(speed, 1.0):
        what = f"{each['name']} trains as fast as {first}: {interval(speed)} ×"
    if each["failed"]:
        return f"{what}; its loss became NaN or infinite in {plural(each['failed'], 'run')}."
    if gain is None:
        return f"{what}."
    difference = f"{abs(gain['mean']):.3g} {'better' if gain['mean'] > 0 else 'worse'}"
    if abs(gain["mean"]) < EQUAL:
        difference = "the same"
    elif _includes(gain, 0.0):
        difference += ", which may be chance"
    said = f"{what}. After the same tokens its {result['metric']} is {difference}"
    if each["time"] is not None:
        return f"{said}; it needs {interval(each['time'])} of the time to {_target(result)}."
    all_runs = len(result["runs"])
    some = "" if each["never"] == all_runs else f" in {each['never']} of {all_runs} runs"
    return f"{said}; it does not reach {_target(result)}{some}."


def _shows_no_gain(time: Facts | None) -> bool:
    """Return whether a strategy is not shown to reach the target sooner than the first one."""
    if time is None or time["high"] is None:
        return time is None or bool(time["mean"] > 1 - WORTH_SAYING)
    return bool(time["high"] >= 1)


def arrival(each: Facts) -> str:
    """Write how long a strategy needed to the target, or in how many runs it did not reach it."""
    if each["time"] is not None:
        return interval(each["time"])
    if each.get("touched"):
        return f"{interval(each['touched'])}, not held"
    if not each["never"]:
        return ""
    all_runs = len(each["speed"]["values"])
    return "never" if each["never"] == all_runs else f"never in {each['never']} of {all_runs}"


def interval(figure: Facts | None, *, sign: str = "", digits: int = 2) -> str:
    """Write a figure of a result, and its interval if there is one.

    Example:
        >>> interval({"mean": 2, "low": 1.5, "high": 2.5}), interval(None)
        ('2.00 (1.50 – 2.50)', '')
    """
    if figure is None:
        return ""
    mean, low, high = figure["mean"], figure["low"], figure["high"]
    return _format.interval(mean, low, high, sign=sign, digits=digits)


def _strategies(result: Facts) -> list[Facts]:
    return [each for each in result["summary"] if each["name"] != DENSE]


def _first(result: Facts) -> str:
    return str(result["summary"][0]["name"]) if result["summary"] else "first"


def _target(result: Facts) -> str:
    target, metric = result["settings"]["target"], result["metric"]
    return f"{_first(result)}'s final {metric}" if target is None else f"{metric} {target:g}"


def _plain(value: float | None, form: str = ".2f") -> str:
    return "" if value is None else f"{value:{form}}"


def _includes(figure: Facts, value: float) -> bool:
    return figure["low"] is not None and bool(figure["low"] <= value <= figure["high"])


def _learning_curves(result: Facts) -> Section:
    """Draw the metric against time and against tokens: the mean of the runs, and their range."""
    of_runs, best = result["runs"] or [result["unfinished"]], _best(result)
    plots = []
    for what, across in (("seconds", "seconds of training"), ("tokens", "real tokens")):
        lines: dict[str, list[Curve]] = {}
        for each in (arm for run in of_runs for arm in run if arm["name"] != DENSE):
            seen = [one for one in each["evaluations"] if one["metric"] is not None]
            points = [one[what] for one in seen], [one["metric"] for one in seen]
            lines.setdefault(each["name"], []).append(points)
        saved = _saved(result, best if what == "seconds" else None)
        up = result["metric"]
        plots.append(
            partial(runs, f"By {what}", lines, across, up, skipped=_BEGINNING, saved=saved)
        )
    note = ""
    if len(of_runs) > 1:
        note = f"Mean of {len(of_runs)} runs; the band is from the least to the most of them. "
    note += "Values before and early in training may lie outside."
    return Section("What is learnt, by time and by tokens", plots=plots, note=note)


def _saved(result: Facts, best: Facts | None) -> Saved | None:
    """Return what to draw at the height of the baseline's final metric."""
    first, target = result["summary"][0], result["settings"]["target"]
    target = first["metric"] if target is None else target
    if target is None:
        return None
    name = _target(result)
    is_low = result["better"] == "lower"
    if best is None:
        return Saved(target, name, is_low)
    share, stop = best["time"]["mean"], first["seconds"]
    return Saved(target, name, is_low, share * stop, stop, f"{1 - share:.0%} of the time saved")


def _batches(plans: Mapping[str, Facts]) -> Section:
    """Show what the batches of each strategy pad, what shapes they have and what steps cost."""
    rows = [
        {
            "": name,
            "batches": number(each["num_batches"]),
            "updates": number(each["num_steps"]),
            "padding": percent(each["padding"]),
            "shapes": number(each["shapes"]),
            "padded tokens an update: least": number(each["step_costs"]["least"]),
            "mean": number(each["step_costs"]["mean"]),
            "most": number(each["step_costs"]["most"]),
        }
        for name, each in plans.items()
    ]
    of_batches = {name: each["shapes_of_batches"] for name, each in plans.items()}
    titled = {f"Batch shapes: {name}": built(each, ShapeStats) for name, each in of_batches.items()}
    plots = shape_plots(titled)
    note = "Of the first epoch of the first seed."
    if plots:
        note += f" Rows against length, one plot for strategies with equal shapes. {DOTS}"
    bars = [1 - each["padding"] for each in plans.values()]
    return Section("Batches", rows=rows, bars=bars, plots=plots, note=note)


def _drawn(plans: Mapping[str, Facts]) -> Section:
    """Show which samples orders draw over a run, if some order draws."""
    drawn = {name: each["coverage"] for name, each in plans.items() if each["coverage"]}
    paced = {name: each["pacing"] for name, each in plans.items() if each["pacing"]}
    rows = [
        {
            "": name,
            "draws": number(each["drawn"][-1]),
            "seen": percent(each["seen"][-1]),
            "most draws of a sample": number(each["most"][-1]),
            "effective samples": number(each["effective_samples"][-1]),
        }
        for name, each in drawn.items()
    ]
    plots = []
    if paced:
        lines = {name: [(each["progress"], each["eligible"])] for name, each in paced.items()}
        plots.append(partial(curves, "Pacing", lines, "share of the run", "share eligible"))
    if drawn:
        lines = {
            name: [([0, *(epoch + 1 for epoch in each["epochs"])], [0.0, *each["seen"]])]
            for name, each in drawn.items()
        }
        plots.append(partial(curves, "Coverage", lines, "epochs", "share seen so far"))
    note = (
        "Over the run, of the first seed. Effective samples: equally frequent samples whose mean "
        "would vary as much. Not listed: strategies that see every sample once an epoch, and those "
        "whose draws are too many to be counted."
    )
    return Section("Pacing and coverage", rows=rows, plots=plots, note=note)


def _audit(name: str, audit: Facts) -> Section:
    """Show what a strategy lost in half precision, layer by layer."""
    title = f"Precision audit: {name}"
    if "failed" in audit:
        return Section(title, sentences=[f"It could not be audited: {audit['failed']}"])
    rows = []
    for each in audit["layers"]:
        row = {"layer": each["name"]}
        for way, seen in (("forward", each["activations"]), ("backward", each["gradients"])):
            for what in ("zero", "flushed", "subnormal", "overflowed"):
                row[f"{way}: {what}"] = _percent(seen and seen[what])
        row["updates lost"] = _percent(each["lost"])
        rows.append(row | {"if bf16 weights": _percent(each["lost_in_bf16"])})
    scale = f", loss scale {number(audit['loss_scale'])}" if audit["mode"] == "fp16" else ""
    rest = audit["num_layers"] - len(rows)
    more = f" And {plural(rest, 'layer')} with smaller errors." if rest else ""
    note = (
        f"{plural(audit['updates'], 'update')} in {audit['mode']}{scale}, after the last run. "
        "Zero: share of all values; the others: of those that are not zero. Flushed: became zero. "
        f"Subnormal: kept with fewer digits.{more}"
    )
    said = [*(audit["advice"] or [f"Nothing speaks against {audit['mode']}."])]
    if audit["advice_on_fp16"] is not None:
        said += audit["advice_on_fp16"] or ["Nothing that was seen speaks against fp16 either."]
    return Section(title, sentences=said, rows=rows, note=note)


def _percent(share: float | None) -> str:
    return "" if share is None else percent(share)
