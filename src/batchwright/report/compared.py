"""What a comparison of strategies says."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from batchwright._format import number, percent, plural
from batchwright._states import built
from batchwright.compare.verdicts import (
    DENSE,
    Facts,
    arrival,
    headline,
    interval,
    sentences,
    strategies,
    target_name,
    verdicts,
)
from batchwright.report.plots import Curve, Saved, curves, runs
from batchwright.report.sections import DOTS, Bar, Head, Picture, Report, Section, shape_plots
from batchwright.stats.shapes import ShapeStats

_BEGINNING = 2  # evaluations whose values would hide all later differences


def compared_report(result: Facts, kept: str = "") -> Report:
    """Describe a comparison; `kept` says where it was kept, in a terminal."""
    facts = {**result, "said": sentences(result)}
    if not result["summary"]:
        return Report("", "", facts, [], [Section(sentences=[kept] if kept else [])])
    plans, machine = result.get("plans", {}), result["machine"]
    data = (
        f"{plural(result['num_samples'], 'sample')}, {number(result['num_tokens'])} tokens, "
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
        Section("What the figures say", sentences=[each.text for each in verdicts(result)]),
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
    title = f"{result['task']}: {plural(len(result['strategies']), 'way')} to train it, compared"
    if result["runs"]:
        title += f" in {plural(len(result['runs']), 'run')}"
    return Report(title, "", facts, sections, [results], _head(result, kept))


def _folded(section: Section) -> Section:
    return replace(section, is_folded=True)


def _head(result: Facts, kept: str) -> Head | None:
    """Say first what to do, and draw how long each strategy takes."""
    said = headline(result)
    if said is None:
        return None
    best = _best(result)
    return Head(
        said.text,
        detail=said.evidence,
        verdict=said.verdict,
        picture=_times(result, best),
        code=[] if best is None else _code(result, best),
        then="" if best is None else "The whole loop in code: batchwright advise TASK.",
        more=f"{kept} Curves, batches and shapes: --html FILE. All figures: --json.".strip(),
    )


def _best(result: Facts) -> Facts | None:
    """Return the strategy to use, if there is one."""
    said = headline(result)
    name = said.name if said is not None and said.verdict == "use" else None
    return next((each for each in strategies(result)[1:] if each["name"] == name), None)


def _times(result: Facts, best: Facts | None) -> Picture | None:
    """Draw the time that each strategy needs to the target."""
    listed = strategies(result)
    if listed[0]["time"] is None or len(listed) < 2:
        return None
    bars = [
        Bar(
            _called(each, result),
            "1" if each is listed[0] else _time(each),
            each["time"]["mean"] if each["time"] else 0.0,
            is_quiet=each is not best,
        )
        for each in listed
    ]
    title = f"Time to {target_name(result)}: shorter is better, the baseline is 1"
    return Picture(bars, title=title)


def _called(each: Facts, result: Facts) -> str:
    """Name a strategy, and say which one is the baseline and what "auto" was."""
    name = str(each["name"])
    if name == _baseline(result):
        return f"{name} (baseline)"
    return f"{name} ({each['precision']})" if name.endswith("+auto") else name


def _time(each: Facts) -> str:
    """Write how long a strategy needed to the target, or in how many runs it held it, in short."""
    held, runs = each["held"], len(each["speed"]["values"])
    some = "held" if held == runs else f"in {held} of {runs} only"
    return interval(each["time"]) or (some if held else arrival(each).partition(",")[0])


def _baseline(result: Facts) -> str:
    return str(result["summary"][0]["name"])


def _code(result: Facts, best: Facts) -> list[str]:
    """Write the planner of a strategy; nothing where its order takes more than a line."""
    listed = {each["name"]: each for each in result["strategies"]}
    chosen, first = (listed[each["name"]] for each in (best, result["summary"][0]))
    options = dict(chosen["options"])
    budget = options.pop("max_tokens", result["max_tokens"])
    step = options.pop("step_tokens", result["step_tokens"])
    resized = ""
    if chosen["kind"] == "mixed":
        found = result["plans"][best["name"]]
        budget = found["budget"]
        resized = f".resized(1, {-(-found['num_batches'] // found['num_steps'])})"
    kinds = {
        "planned": ("TokenBudget", f"{budget}"),
        "mixed": ("TokenBudget", f"{budget}"),
        "packed": ("Packing", f"{budget}"),
        "buckets": ("Buckets", f"{options.pop('num_shapes', 8)}, max_tokens={budget}"),
    }
    lines = ["from batchwright.torch import Precision", ""]
    if chosen["kind"] in kinds and chosen["order"] == "shuffle":
        name, settings = kinds[chosen["kind"]]
        settings += "".join(f", {key}={value!r}" for key, value in options.items())
        lines = [
            "import batchwright as bw",
            "from batchwright.torch import PlanLoader, Precision",
            "",
            f"planner = bw.Planner(lengths, batching=bw.{name}({settings}), step_tokens={step})"
            + resized,
            "loader = PlanLoader(dataset, planner, collate_fn=collate)",
        ]
    elif (chosen["kind"], chosen["order"]) != (first["kind"], first["order"]):
        return []
    return [*lines, f'precision = Precision("{best["precision"]}")']


def _results(result: Facts) -> Section:
    """Show the figures that matter of each strategy."""
    listed, first = strategies(result), _baseline(result)
    rows = [
        {
            "": _called(each, result),
            "time": _time(each),
            "tokens/s": f"{each['speed']['mean']:.2f}",
            "padding": percent(round(each["padding"], 4)),
            "in the end": _plain(each["metric"], ".4f")
            or (f"failed {each['failed']} ×" if each["failed"] else ""),
        }
        for each in listed
    ]
    known = " with its 95 % interval," if len(result["runs"]) > 1 else ""
    note = (
        f"Time to {target_name(result)}, reached and held,{known} and real tokens per second: "
        f"the baseline is 1. In the end: {result['metric']}, {result['better']} is better."
    )
    times = [each["time"]["mean"] if each["time"] else 0.0 for each in listed]
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
            "": "no-padding limit" if each["name"] == DENSE else each["name"],
            "precision": each["precision"],
            "tokens/s": f"{each['tokens_per_second']:,.0f}",
            f"over {_baseline(result)}": interval(each["speed"]),
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
            f"gain over {_baseline(result)}": interval(each["gain"], sign="+", digits=4),
            f"time to {target_name(result)}": arrival(each),
            "tokens to it": _plain(each["tokens"] and each["tokens"]["mean"]),
        }
        for each in strategies(result)
    ]
    note = (
        "(low – high): 95 % interval over seeds, paired. length mix: how unlike updates are; 1 is "
        "a plain shuffle. time: of training only."
    )
    title = f"Learning: {result['metric']}, {result['better']} is better"
    return Section(title, rows=rows, note=note)


def _plain(value: float | None, form: str = ".2f") -> str:
    return "" if value is None else f"{value:{form}}"


def _learning_curves(result: Facts) -> Section:
    """Draw the metric against time and against tokens: the mean of the runs, and their range."""
    of_runs, best = result["runs"] or [result["unfinished"]], _best(result)
    name = "" if best is None else _called(best, result)
    plots = []
    for what, across in (("seconds", "seconds of training"), ("tokens", "real tokens")):
        lines: dict[str, list[Curve]] = {}
        for each in (arm for run in of_runs for arm in run if arm["name"] != DENSE):
            seen = [one for one in each["evaluations"] if one["metric"] is not None]
            points = [one[what] for one in seen], [one["metric"] for one in seen]
            lines.setdefault(_called(each, result), []).append(points)
        saved = _saved(result, best if what == "seconds" else None)
        up = result["metric"]
        plots.append(
            partial(
                runs, f"By {what}", lines, across, up, skipped=_BEGINNING, saved=saved, best=name
            )
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
    name = target_name(result)
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
