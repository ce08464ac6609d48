"""The sentence that `advise` ends with: what to do, and what that is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from batchwright._format import listed, percent, plural
from batchwright.advise.advice import WORTH, Advice, Gain, Verdict, configuration
from batchwright.advise.evidence import Evidence
from batchwright.advise.rules.orders import LITTLE

MOST = 3
"""Techniques that a headline names."""

MANY = 0.01
"""From this share on, the headline says that rows are cut or left out."""

_OF_SPEED = ("dynamic batching", "mixed precision")
_SHORT_RUNS = ("curriculum", "half", "twice")
_MEASURED = "measured here"


@dataclass(frozen=True)
class Headline:
    """What to do, in a sentence, and what comes next."""

    text: str  # a sentence that stands alone
    detail: str  # what it is based on, in a sentence
    verdict: Verdict  # ``"do not use"``: nothing is worth a change
    techniques: tuple[str, ...]  # those that it names
    gain: Gain | None  # their gain together, if that is known
    then: str  # what to do next, in a sentence. Empty: nothing


def headline(evidence: Evidence, advice: Sequence[Advice]) -> Headline:
    """Choose the sentence by verdicts and figures; `advice` is what `advise` made of the evidence.

    Example:
        >>> from batchwright.advise import advise, profile_data
        >>> evidence = Evidence(profile_data([3, 5, 5, 60] * 50, max_tokens=120))
        >>> headline(evidence, advise(evidence)).text.split(":")[0]
        'Switch to planned batches'
    """
    used = [each for each in advice if each.verdict == "use"]
    then = _next(evidence, advice)
    if not used:
        text, verdict = _of_nothing(evidence, advice)
        return Headline(text, _rests_on(evidence), verdict, (), None, then)
    # Techniques measured on the task come before those judged by the samples alone.
    named = sorted(used, key=_place)[:MOST]
    actions = listed([each.action for each in named])
    more = f" (and {len(used) - MOST} more)" if len(used) > MOST else ""
    known, gain = _worth(evidence, named)
    text = f"{actions[0].upper()}{actions[1:]}{more}: {', '.join(known)}."
    techniques = tuple(each.technique for each in named)
    return Headline(text, _rests_on(evidence, named), "use", techniques, gain, then)


def _place(advice: Advice) -> int:
    known = advice.technique in _OF_SPEED
    return _OF_SPEED.index(advice.technique) if known else len(_OF_SPEED)


def _worth(evidence: Evidence, named: Sequence[Advice]) -> tuple[list[str], Gain | None]:
    """Say what the named techniques are worth; the gain is that of the first, or of both."""
    said, gain = [], named[0].gain
    of_speed = [each for each in named if each.technique in _OF_SPEED]
    if any(each.technique == "dynamic batching" for each in named):
        before, after = (1 - evidence.data.efficiency[kind] for kind in ("plain", "planned"))
        kind = configuration(of_speed).partition("+")[0]
        after = 1 - evidence.mixes[kind].efficiency if kind in evidence.mixes else after
        said += [f"{percent(before)} → {percent(after)} padding"] if after < before else []
    trial = evidence.trials.get(configuration(of_speed))
    measured = [each.gain for each in of_speed if each.gain and each.gain.origin == _MEASURED]
    if measured:
        # A time to the same metric and a speed cannot be one figure.
        is_speed = configuration(of_speed).partition("+")[0] not in evidence.learning
        if len(measured) > 1 and trial is not None and is_speed:
            measured = [trial.speed]
        said += [f"{times(each)} {each.of} on your task" for each in measured]
        gain = measured[0]
    others = [each for each in named if each.technique not in _OF_SPEED]
    is_one = sum(_may_gain(each) for each in others) == 1  # if there are several, each is named
    for each in others:
        if each.gain is not None and is_one and _may_gain(each):
            said.append(f"{times(each.gain)} {each.gain.of} in short runs")
        else:
            said.append(each.short)
    return said, gain


def _of_nothing(evidence: Evidence, advice: Sequence[Advice]) -> tuple[str, Verdict]:
    """Say why nothing is advised, and whether that is because nothing is worth a change."""
    given = {each.technique: each for each in advice}
    batching, precision, labels = (given[name] for name in (*_OF_SPEED, "self-paced"))
    if evidence.has_task and not evidence.trials:
        untried, need = evidence.untried.get("speed"), ""
        if untried is not None and untried.needed is not None:
            need = f", which need about {untried.needed:,.0f} {untried.unit}"
        return f"No advice on speed yet: there was no time for trials{need}.", "cannot tell"
    said = [batching.short.partition(":")[0]]
    if evidence.data.is_constant:
        said = ["all samples have the same length"]
    elif "padding" in batching.short:
        said = [f"in planned batches, {said[0]}"]
    if precision.gain is not None and precision.gain.origin == _MEASURED:
        said.append(precision.short)
    unclear = [each for each in advice if each.verdict == "cannot tell" and _may_gain(each)]
    said += [each.short for each in unclear if each.technique not in _OF_SPEED]
    if labels.verdict == "cannot tell" and labels.settings and _wrong(evidence) >= LITTLE:
        unclear.append(labels)
        said.append(labels.short)
    if unclear or batching.verdict == "cannot tell":
        more = f"; and {len(said) - MOST} more" if len(said) > MOST else ""
        return f"No clear gain yet: {'; '.join(said[:MOST])}{more}.", "cannot tell"
    where = "Nothing here is" if evidence.trials else "Lengths alone show nothing"
    return f"{where} worth a change: {'; '.join(said)}.", "do not use"


def _wrong(evidence: Evidence) -> float:
    labels = evidence.labels
    return 0.0 if labels is None or labels.noise is None else labels.noise.rate


def _may_gain(advice: Advice) -> bool:
    gain = advice.gain
    return gain is not None and gain.origin == _MEASURED and gain.ratio >= WORTH


def _rests_on(evidence: Evidence, named: Sequence[Advice] = ()) -> str:
    """Say what the sentence is based on, and what short runs need for which there was no time."""
    gains = [each.gain for each in named if each.gain is not None]
    is_measured = any(gain.origin == _MEASURED for gain in gains)
    runs = [trial.runs for trial in evidence.learning.values()]
    if evidence.trials and (is_measured or not named):
        updates = min(trial.updates for trial in evidence.trials.values())
        said = f"Measured on {plural(updates, 'update')} of each strategy"
        said += f", and on {plural(min(runs), 'short run')}" if runs else ""
    elif gains and gains[0].origin == "published":
        said = f"Published: {times(gains[0])} {gains[0].of}"
    else:
        said = f"Computed from the {_what(evidence)}{_changed(evidence)}"
        said += "" if evidence.trials else "; no speed was measured"
    if not evidence.trials:
        return f"{said}."
    needed = [
        each
        for name, each in evidence.untried.items()
        if name in _SHORT_RUNS and each.needed is not None
    ]
    if not needed:
        return f"{said}."
    most = max(needed, key=lambda each: each.needed or 0.0)
    return f"{said}. {'More trials' if runs else 'Trials'} of what is learnt need {most.cure}."


def _changed(evidence: Evidence) -> str:
    """Say that many rows were cut or left out, which the figures do not show; else empty."""
    data, outliers = evidence.data, evidence.data.outliers
    if outliers is None or outliers.share < MANY:
        return ""
    done = f"cut to {data.max_tokens:,}" if outliers.oversize == "truncate" else "left out"
    return f", {percent(outliers.share)} of them {done}"


def _what(evidence: Evidence) -> str:
    return "samples" if evidence.duplicates or evidence.labels else "lengths"


def _next(evidence: Evidence, advice: Sequence[Advice]) -> str:
    if not evidence.has_task:
        return "To measure it on your job: batchwright new-task, then batchwright advise TASK."
    untried = evidence.untried.get("speed")
    if untried is not None and not evidence.trials:
        return f"To measure it: batchwright advise TASK {untried.cure}"
    strategy = configuration(advice)
    if strategy == "plain":
        return ""
    data = evidence.data
    now = f" --batch-size {data.batch_size}" if data.batch_size_is_given else ""
    return f"To compare whole runs: batchwright compare TASK{now} --strategies plain,{strategy}"


def times(gain: Gain) -> str:
    """Write a ratio in few digits, rounded so that it does not contradict a verdict.

    Example:
        >>> [times(Gain(ratio, None, None, "")) for ratio in (1.04, 1.93, 12.3)]
        ['1.04 ×', '1.9 ×', '12 ×']
    """
    ratio = gain.ratio
    digits = 2 if 0.9 < ratio < 1.1 else 1 if ratio < 10 else 0
    return f"{ratio:.{digits}f} ×"
