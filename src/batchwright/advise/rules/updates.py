"""How large batches and updates are."""

from batchwright._format import mebibytes, percent
from batchwright.advise.advice import WORTH, Advice
from batchwright.advise.data_profile import DataProfile
from batchwright.advise.evidence import Evidence
from batchwright.advise.rules.wording import (
    how_to_try,
    more_runs,
    says,
    sooner,
    unclear,
    why_untried,
)
from batchwright.stats.dial import DialPosition

BATCHES = 8
"""Batches of an update for which the dial is computed."""

EVENLY = 1.05
"""Up to this length mix, updates are as even as those of a plain shuffle."""


def tokens_per_update(evidence: Evidence) -> Advice:
    """Half or twice the tokens per update: by the loss at equal time, never by what fits.

    Source: McCandlish et al., *An Empirical Model of Large-Batch Training*, 2018,
    arXiv:1812.06162. In a short run, 60 large updates ended 0.8 nats above 800 small ones with the
    same tokens in all, more than any batching gains. With a task: short runs of it, with its own
    learning rate.
    """
    given = evidence.step_tokens
    if given is None:
        why = (
            "Tokens per update are a setting of the optimizer, not of memory. Keep the number that "
            f"your learning rate was tuned for.{_mix(evidence.data)}"
        )
        untested = f"the loss at equal time ({how_to_try(evidence)})"
        return says("cannot tell", "keep what you have tuned", why, untested=untested)
    sizes = {"half": given // 2, "twice": 2 * given}
    trials = {sizes[name]: evidence.learning[name] for name in sizes if name in evidence.learning}
    if not trials:
        why = f"Only your {given:,} has a result. {why_untried(evidence, *sizes)}"
        untested = f"other numbers ({how_to_try(evidence, *sizes)})"
        return says("cannot tell", "other numbers were not tried", why, untested=untested)
    best = max(trials, key=lambda size: (trials[size].verdict == "use", trials[size].sooner.ratio))
    trial = trials[best]
    listed = "; ".join(f"with {size:,}, {sooner(each)}" for size, each in trials.items())
    why = f"Compared with your {given:,} tokens per update: {listed}."
    short = f"{best:,} instead of {given:,}: {trial.sooner.ratio:.2f} × as fast to the same metric"
    untested = "other learning rates, which should be tuned together with it"
    if trial.verdict == "use":
        return says(
            *("use", short, why, trial.sooner, {"step_tokens": str(best)}),
            untested=untested,
            action=f"take {best:,} tokens per update instead of {given:,}",
        )
    if all(each.verdict == "do not use" for each in trials.values()):
        return says("do not use", f"{short} at best", why, trial.sooner, untested=untested)
    if trial.verdict == "do not use":  # of the best one; another is unclear
        trial = next(each for each in trials.values() if each.verdict == "cannot tell")
    short = f"{short}{unclear(trial)}"
    return says("cannot tell", short, why + more_runs(trial), trial.sooner, untested=untested)


def memory_budget(evidence: Evidence) -> Advice:
    """A larger budget for batches: what fits, and what the peak consists of.

    It is never advised outright: it makes batches fewer, not updates better.

    Source: what `MemoryModel` predicts for the user's own step (`python -m
    benchmarks.memory_prediction` shows how well).
    """
    data, model = evidence.data, evidence.model
    if model is None or model.memory is None:
        why = "What fits into memory depends on the model."
        untested = "the memory of a step (run batchwright advise on a task, or MemoryModel.fit)"
        if evidence.has_task:
            untested = "the memory of a step (MemoryModel.fit)"
        if model is not None:
            why += "".join(
                f" It could not be measured: {each.removeprefix('memory: ')}."
                for each in model.unknown
                if each.startswith("memory: ")
            )
            if model.peak_bytes is not None:
                why += f" The largest plain batches took {mebibytes(model.peak_bytes)} MiB."
        elif evidence.has_task:
            why += f" {why_untried(evidence, 'model')}"
            untested = f"the memory of a step ({how_to_try(evidence, 'model')})"
        return says("cannot tell", "memory was not measured", why, untested=untested)
    memory = model.memory
    peak = max(size for _, _, size in memory.shapes)
    name, share, cure = memory.parts[0]
    why = (
        f"Batches of {data.max_tokens:,} {data.unit} take up to {mebibytes(peak)} MiB, of which "
        f"{mebibytes(memory.state_bytes)} MiB are always in use. {percent(share)} of the peak is "
        f"{name}."
    )
    why += f" To reduce it: {cure}." if cure else ""
    limit = f"{mebibytes(memory.limit)} MiB"
    if memory.max_tokens is None:
        why += f" No larger budget is known to fit into {limit} at every length."
        return says("do not use", "no larger budget is known to fit", why)
    if memory.max_tokens < WORTH * data.max_tokens:
        why += f" At every length, {memory.max_tokens:,} tokens fit into {limit}."
        beside = "fewer" if memory.max_tokens < data.max_tokens else "hardly more"
        return says("do not use", f"{memory.max_tokens:,} tokens fit, {beside} than now", why)
    why += (
        f" Batches of {memory.max_tokens:,} tokens would fit into {limit}. Larger batches help "
        "only until the device is busy"
    )
    why += "." if data.is_constant else "; smaller ones mix updates better."
    untested = (
        "the speed of larger batches (run batchwright compare, with max_tokens in a strategy)"
    )
    short = f"{memory.max_tokens:,} tokens would fit; helps only if the device idles"
    return says("cannot tell", short, why, untested=untested)


def _mix(data: DataProfile) -> str:
    """Say how evenly updates of planned batches mix lengths, by the dial; empty if unknown."""
    if data.is_constant or not data.dial or data.dial[0].mixing != "stratified":
        return ""
    first, found = data.dial[0], next((at for at in data.dial if _is_even(at)), None)
    known = f"length mix {first.dispersion:.2f}; 1 is a plain shuffle"
    if _is_even(first):
        return (
            f" Updates cut into {BATCHES} planned batches mix lengths as evenly as a plain shuffle "
            f"({known})."
        )
    said = f" Updates cut into {BATCHES} planned batches mix lengths less evenly ({known})"
    if found is None:
        return f"{said}; smaller batches mix better."
    return (
        f"{said}; mixing={found.mixing!r} has {found.dispersion:.2f}, at "
        f"{percent(1 - found.efficiency)} padding instead of {percent(1 - first.efficiency)}."
    )


def _is_even(position: DialPosition) -> bool:
    return position.dispersion <= EVENLY
