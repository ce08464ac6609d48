"""Which samples share a batch."""

from typing import Any

from batchwright._format import interval, percent, plural
from batchwright.advise.advice import WORTH, Advice
from batchwright.advise.data_profile import NUM_SHAPES
from batchwright.advise.evidence import Evidence, Mix
from batchwright.advise.rules.wording import (
    METRIC,
    denser,
    how_to_try,
    more_runs,
    padding,
    says,
    sooner,
    why_untried,
)

DENSE_MASKS = (2.0, 4.0)
"""How many times as long packed rows of a whole budget took on CPUs, over planned batches."""


def dynamic_batching(evidence: Evidence) -> Advice:
    """Batches of similar lengths, as many samples as fit: use them if they save padding.

    Source: the padding of plans of these lengths; with a task, the speed of both in turns. If
    updates are unlike one another in length, speed is not enough: short runs decide.
    """
    data = evidence.data
    if data.is_constant:
        return _nothing_to_save()
    if not {"plain", "planned"} <= set(data.efficiency):
        why = "These samples cannot be planned in this budget."
        return says("cannot tell", "these samples cannot be planned in this budget", why)
    before, after = padding(data, "plain"), padding(data, "planned")
    whose = "Your batches" if data.batch_size_is_given else "Batches"
    why = (
        f"{whose} of {plural(data.batch_size, 'random sample')} have {before} padding, planned "
        f"batches within {data.max_tokens:,} {data.unit} {after}"
    )
    if "grouped" in data.efficiency:
        why += f", batches grouped by length (as trainers do) {padding(data, 'grouped')}"
    why += "."
    if evidence.mixes:
        return _of_unlike_updates(evidence, why)
    gain, untested = denser(data, "planned", "plain"), "the speed of your model"
    if not evidence.has_task:
        untested += "; what it learns if an update is one batch, of samples of similar length"
    verdict, short = gain.verdict, f"padding {before} → {after}"
    if trial := evidence.trials.get("planned"):
        gain, untested = trial.speed, METRIC
        verdict = gain.verdict
        speed = interval(gain.ratio, gain.low, gain.high)
        why += f" On your task, planned batches train {speed} times as fast."
        short += f", {gain.ratio:.2f} × the tokens per second"
        if verdict == "cannot tell":
            why += " So few updates cannot show whether that is a gain."
    elif evidence.has_task and verdict == "use":
        untested += f" ({how_to_try(evidence, 'speed')})"
    if verdict == "do not use":
        worth = "no gain" if gain.ratio <= 1 else "too little to be worth a change"
        why += f" That is {worth}."
        short = f"{short}: {worth}"
    settings = {"batching": f"TokenBudget({data.budget})"} if verdict != "do not use" else {}
    return says(
        *(verdict, short, why, gain, settings),
        untested=untested,
        strategy="planned",
        action="switch to planned batches",
    )


def _of_unlike_updates(evidence: Evidence, why: str) -> Advice:
    """Decide by short runs if updates of planned batches are unlike one another."""
    planned, mixed = (evidence.mixes[name] for name in ("planned", "mixed"))
    held = plural(planned.accumulate, "batch")
    why += (
        f" With {held} per update, speed and mix conflict: the length mix of updates is "
        f"{planned.dispersion:.2f}, where 1 is a plain shuffle. With {mixed.accumulate} smaller "
        f"batches it is {mixed.dispersion:.2f}, at {percent(1 - mixed.efficiency)} padding."
    )
    for each in (planned, mixed):
        if trial := evidence.trials.get(each.strategy):
            speed = interval(trial.speed.ratio, trial.speed.low, trial.speed.high)
            why += f" {_called(each)} train {speed} times as fast."
    tried = [each for each in (planned, mixed) if each.strategy in evidence.learning]
    for each in tried:
        why += f" In short runs, {_called(each).lower()} are"
        why += f" {sooner(evidence.learning[each.strategy])}."
    used = [each for each in tried if evidence.learning[each.strategy].verdict == "use"]
    both = [each.strategy for each in (planned, mixed)]
    names = [name for name in both if not evidence.is_slower(name)]
    if used:
        best = max(used, key=lambda each: evidence.learning[each.strategy].sooner.ratio)
        gain = evidence.learning[best.strategy].sooner
        settings: dict[str, Any] = {"batching": f"TokenBudget({best.max_tokens})"}
        settings |= {"accumulate": best.accumulate} if best is mixed else {}
        return says(
            "use",
            f"{gain.ratio:.2f} × as fast to the same metric, {best.accumulate} per update",
            *(why, gain, settings),
            untested=METRIC,
            strategy=best.strategy,
            action=f"switch to planned batches, {best.accumulate} per update",
        )
    if names and all(
        name in evidence.learning and evidence.learning[name].verdict == "do not use"
        for name in names
    ):
        most = max((evidence.learning[name].sooner for name in names), key=lambda each: each.ratio)
        short = f"{most.ratio:.2f} × as fast to the same metric at best: no gain"
        return says("do not use", short, why, most, untested=METRIC)
    if not names:
        most = max((evidence.trials[name].speed for name in both), key=lambda each: each.ratio)
        return says("do not use", f"{most.ratio:.2f} × the tokens per second: no gain", why, most)
    unclear = [evidence.learning[each.strategy] for each in tried]
    why += more_runs(max(unclear, key=lambda each: each.sooner.ratio)) if unclear else ""
    why += "" if unclear else f" {why_untried(evidence, 'speed', *names)}"
    return says(
        "cannot tell",
        f"faster, but updates unlike one another: length mix {planned.dispersion:.2f}",
        why,
        untested=f"what is learnt ({how_to_try(evidence, 'speed', *names)})",
        strategy="mixed",
        action="switch to planned batches",
    )


def _called(mix: Mix) -> str:
    return f"Planned batches, {mix.accumulate} per update,"


def packing(evidence: Evidence) -> Advice:
    """Several samples in a row without padding: for one fixed shape, with kernels for it.

    Source: Krell et al., *Efficient Sequence Packing without Cross-contamination*, 2021,
    arXiv:2107.02027. On CPUs, packed rows of a whole budget took 2 to 4 times as long as planned
    batches, because attention masks are dense there.
    """
    data = evidence.data
    if data.is_constant:
        return _nothing_to_save()
    if not {"packed", "planned"} <= set(data.efficiency):
        why = "These samples cannot be packed into rows of this budget."
        return says("cannot tell", "these samples cannot be packed", why)
    gain = denser(data, "packed", "planned")
    packed, planned = padding(data, "packed"), padding(data, "planned")
    why = f"Packed rows have {packed} padding, planned batches {planned}."
    if gain.ratio < WORTH:
        short = f"padding {packed}, planned {planned}: little to save"
        why += " There is little left to save."
        return says("do not use", short, why, gain if gain.ratio > 1 else None)
    on_cpu = evidence.hardware is not None and evidence.hardware.device == "cpu"
    least, most = DENSE_MASKS
    if on_cpu:
        why += (
            " On a CPU, attention over packed rows needs a dense mask, and they took "
            f"{least:g} to {most:g} times as long in our measurements."
        )
    if on_cpu and gain.ratio < least:
        short = f"padding {planned} → {packed}, but dense masks on a CPU cost more"
        why += f" {gain.ratio:.2f} times the share of real {data.unit} does not make up for that."
        return says("do not use", short, why)
    why += " Pack only if you need rows of one fixed shape and have kernels for variable lengths."
    return says(
        "cannot tell",
        f"padding {planned} → {packed}, with kernels for variable lengths",
        why,
        gain,
        {"batching": f"Packing({data.budget})"},
        untested="attention kernels for variable lengths",
    )


def static_shapes(evidence: Evidence) -> Advice:
    """A few padded shapes: for compilers, which compile each shape separately.

    Source: compilations equal the number of shapes, with torch.compile and JAX
    (`python -m benchmarks.static_shapes`).
    """
    data = evidence.data
    if data.is_constant:
        return _nothing_to_save("All samples have the same length: there is one shape already.")
    if "buckets" not in data.efficiency:
        why = f"These samples do not fit into {NUM_SHAPES} shapes."
        return says("cannot tell", f"these samples do not fit into {NUM_SHAPES} shapes", why)
    left = padding(data, "buckets")
    why = f"{NUM_SHAPES} padded shapes leave {left} padding"
    if "planned" in data.efficiency:
        why += f", planned batches {padding(data, 'planned')}"
    why += (
        ". They help only if the model is compiled for each shape (JAX, or torch.compile without "
        "dynamic shapes)."
    )
    return says(
        "cannot tell",
        f"{NUM_SHAPES} shapes at {left} padding, for models compiled for each shape",
        why,
        None,
        {"batching": f"Buckets({NUM_SHAPES}, max_tokens={data.budget})"},
        untested="whether the model is compiled",
    )


def _nothing_to_save(
    why: str = "All samples have the same length: there is no padding to save.",
) -> Advice:
    return says("do not use", "all samples have the same length", why)
