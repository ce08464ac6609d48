"""Phrases that several rules use."""

from collections.abc import Mapping
from typing import Any

from batchwright._format import percent
from batchwright.advise.advice import Advice, Gain, Verdict
from batchwright.advise.data_profile import DataProfile
from batchwright.advise.evidence import Evidence
from batchwright.advise.learning_trials import LearningTrial

METRIC = "the metric (run batchwright compare)"


def says(
    verdict: Verdict,
    short: str,
    why: str,
    gain: Gain | None = None,
    settings: Mapping[str, Any] | None = None,
    *,
    untested: str = "",
    strategy: str = "",
    action: str = "",
) -> Advice:
    """Make advice, to which `advise` adds the technique."""
    return Advice(
        *("", verdict, why, gain, settings or {}, untested),
        strategy=strategy,
        short=short,
        action=action,
    )


def padding(data: DataProfile, kind: str) -> str:
    """Return the padding of a kind of batches, in percent."""
    return percent(1 - data.efficiency[kind])


def denser(data: DataProfile, kind: str, other: str) -> Gain:
    """Return the share of real tokens in one kind of batches over that in another."""
    ratio = data.efficiency[kind] / data.efficiency[other]
    return Gain(ratio, None, None, f"the share of real {data.unit}", "computed from the plan")


def sooner(trial: LearningTrial) -> str:
    """Describe the result of a learning trial."""
    runs = "one run" if trial.runs == 1 else f"{trial.runs} runs"
    share = f"{100 * trial.share:.0f} %"
    return (
        f"{trial.sooner.ratio:.2f} times as fast to the same metric ({trial.least:.2f} to "
        f"{trial.most:.2f} along the way), in {runs} over {share} of your training"
    )


def unclear(trial: LearningTrial) -> str:
    """Say in a few words why a trial leaves the question open."""
    return ", too close to tell" if trial.held else ", but not held in every run"


def more_runs(trial: LearningTrial) -> str:
    """Say what a trial without a clear result would need."""
    if trial.verdict != "cannot tell":
        return ""
    if not trial.held:
        return " Not every run reached the last metric and held it: time and metric do not agree."
    said = " Seeds differ by as much"
    if trial.needed is None:
        return f"{said}."
    more = "more runs" if trial.runs == 1 or trial.share == 1.0 else "longer runs"
    return f"{said}: {more} need about {trial.needed:,.0f} s (--seconds {trial.needed:.0f})."


def how_to_try(evidence: Evidence, *names: str) -> str:
    """Say what a trial that was not made would need, as a part of a sentence."""
    if not evidence.has_task:
        return "run batchwright advise on a task"
    known = [evidence.untried[name] for name in names if name in evidence.untried]
    if not known:
        return "give the trials more time: --seconds"
    return max(known, key=lambda each: each.needed or 0.0).cure


def why_untried(evidence: Evidence, *names: str) -> str:
    """Say why there is no result of a trial, as a sentence."""
    known = [evidence.untried[name] for name in names if name in evidence.untried]
    if not known:
        return "It was not tried."
    return str(max(known, key=lambda each: each.needed or 0.0))
