"""What a comparison shows: a verdict on each strategy, and one headline.

Pure functions of a result, as `compare --json` prints it. Every word is chosen by the figures, as
they are printed: no text says more than stands beside it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from batchwright import _format
from batchwright._format import percent

Facts: TypeAlias = Mapping[str, Any]
"""What ``compare --json`` prints, or a part of it."""

Word: TypeAlias = Literal["faster", "no gain", "slower", "cannot tell"]

DENSE, TWIN = "dense limit", "its own twin"

WORTH_SAYING = 0.03  # ratios nearer to 1 than this are called no difference
CERTAIN = 0.1  # a self-check whose interval goes further from its ratio than this shows nothing
ALONE = 1.25
"""The ratio of times that a single run has to show: seeds alone differ by a fifth."""

SAME = 0.03  # metrics nearer than this share of what the baseline improved are the same
WORSE_ALONE = 0.05  # the same share, from which a single run shows a metric to differ
NO_MORE = 0.95  # a strategy that needs at least this share of the time gains nothing
EQUAL = 1e-9  # metrics nearer to one another than this are equal
MOST_SEEDS = 20  # that are ever advised

_KINDS = {
    "plain": "fixed-size batches",
    "grouped": "batches grouped by length",
    "planned": "planned batches",
    "mixed": "planned batches, eight an update",
    "packed": "packed rows",
    "buckets": "batches of few shapes",
}
_BASELINE = "The baseline's"
_ORDERS = {
    "sequential": "in the order of the data",
    "curriculum": "easy samples first",
    "anticurriculum": "hard samples first",
    "control": "paced as a curriculum, in random order",
}


@dataclass(frozen=True)
class Verdict:
    """What a comparison shows of one strategy, beside the baseline."""

    name: str  # of the strategy
    word: Word  # by the time to the baseline's final metric
    speed: str  # in words, with the figure
    time: str  # to the target. Empty: there is no target
    metric: str  # after the same tokens. Empty: it is not known
    why: str = ""  # why the figures leave it open, and what it would take

    @property
    def text(self) -> str:
        """The verdict in a sentence or two."""
        figures = "; ".join(each for each in (self.speed, self.time, self.metric) if each)
        return " ".join(filter(None, [f"{self.name}: {self.word}.", _sentence(figures), self.why]))


@dataclass(frozen=True)
class Headline:
    """What a comparison shows, in one sentence: what to do."""

    verdict: Literal["use", "do not use", "cannot tell"]  # of what is compared with the baseline
    text: str
    name: str | None = None  # the strategy to use, or the one that is left open
    evidence: str = ""  # how strong it is


def verdicts(result: Facts) -> list[Verdict]:
    """Judge each strategy beside the first one; none before a run is complete."""
    if not result["runs"] or _is_null(result):
        return []
    return [_verdict(each, result) for each in strategies(result)[1:]]


def headline(result: Facts) -> Headline | None:
    """Say in one sentence what to do; None: nothing was measured.

    Of a strategy and its own twin the sentence says whether measurements can be trusted.
    """
    if not result["summary"]:
        return None
    if _is_null(result):
        return _of_twins(*result["summary"][:2])
    if not result["runs"]:
        return Headline(
            "cannot tell", "Cannot tell yet: no run is complete. These are speeds so far."
        )
    judged = list(zip(verdicts(result), strategies(result)[1:], strict=True))
    for word, said in (("faster", _switch), ("cannot tell", _unsure)):
        if found := [pair for pair in judged if pair[0].word == word]:
            return said(*min(found, key=lambda pair: _promise(pair[1])), result)
    if not judged:
        return Headline("cannot tell", "Cannot tell: nothing was compared. Name more --strategies.")
    return _keep(*min(judged, key=lambda pair: _promise(pair[1])), result)


def sentences(result: Facts) -> list[str]:
    """Return all that is said of a result: first the verdicts, at the end the headline."""
    head = headline(result)
    if head is None:
        return []
    said = [*(each.text for each in verdicts(result)), head.evidence, head.text]
    return [each for each in said if each]


def strategies(result: Facts) -> list[Facts]:
    """Return the summaries of a result without the limit of speed."""
    return [each for each in result["summary"] if each["name"] != DENSE]


def target_name(result: Facts) -> str:
    """Name the metric whose time is measured."""
    target, metric = result["settings"]["target"], result["metric"]
    return f"the baseline's final {metric}" if target is None else f"{metric} {target:g}"


def arrival(each: Facts) -> str:
    """Write how long a strategy needed to the target, or why there is no such time: for a table."""
    if each["time"] is not None:
        return interval(each["time"])
    runs = len(each["speed"]["values"])
    said = [
        (what if count == runs else f"{what} in {count} of {runs}")
        for what, count in (("never", each["never"]), ("not held", each["lost"]))
        if count
    ]
    return ", ".join(said)


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


# -- One strategy ---------------------------------------------------------------------------------


def _verdict(each: Facts, result: Facts) -> Verdict:
    word, why = _word(each, result)
    speed, time, metric = _speed(each), _time(each, result), _metric(each, result)
    if each["failed"]:
        time, metric = _failed("its", each, result), ""
    return Verdict(each["name"], word, speed, time, metric, why)


def _word(each: Facts, result: Facts) -> tuple[Word, str]:
    """Choose the verdict, and say why where the figures leave it open."""
    first, time = strategies(result)[0], each["time"]
    if obstacle := _obstacle(each, result):
        return "cannot tell", obstacle
    if each["failed"]:
        return "no gain", ""
    sooner, speed, better = -_side(time, ALONE), _side(each["speed"]), _better(each, first)
    if better * sooner < 0 or (better < 0 < speed):
        return "cannot tell", f"Speed and quality disagree. {_more(each, result)}"
    if sooner or (time is None and _is_slower(each, result, speed, better)):
        return ("faster" if sooner > 0 else "slower"), ""
    if time is not None and better <= 0 and _gains_nothing(time, speed):
        return "no gain", ""
    return "cannot tell", _more(each, result)


def _obstacle(each: Facts, result: Facts) -> str:
    """Say what keeps a strategy from being judged; empty if nothing does."""
    first, metric = strategies(result)[0], result["metric"]
    if first["failed"]:
        return f"{_failed(_BASELINE, first, result)}: repair that first."
    if each["failed"]:
        return ""
    unchanged = f"The baseline's {metric} did not improve: train it longer."
    if (first["improved"] or 0) < 0:
        other = "higher" if result.get("better", "lower") == "lower" else "lower"
        unchanged += f' Or, if {other} is better, give the task better="{other}".'
    obstacles = {
        f"The baseline's {metric} at the end of a run is not a number.": first["gain"] is None,
        unchanged: (first["improved"] or 0) <= 0,
        f"Its {metric} at the end of a run is not a number.": each["gain"] is None,
        "The baseline does not reach the target in all runs: choose another.": first["held"]
        < len(result["runs"]),
        "The target is reached before any training: choose another.": each["time"] is None
        and not each["never"] + each["lost"],
    }
    return next((text for text, is_so in obstacles.items() if is_so), "")


def _is_slower(each: Facts, result: Facts, speed: int, better: int) -> bool:
    """Judge a strategy that in some run did not reach the target, or did not hold it."""
    runs, longest = len(result["runs"]), 1 + result["settings"]["longer"]
    touched = each["touched"]
    speaks_for = speed > 0 or better > 0 or (touched is not None and touched["mean"] < 1)
    # It trained at least as long as the baseline, and never got there.
    never = runs > 1 and each["never"] == runs and each["speed"]["mean"] <= longest
    return not speaks_for and (never or speed < 0 or better < 0)


def _gains_nothing(time: Facts, speed: int) -> bool:
    """Return whether a strategy is at most a little sooner, or nothing shows it to be sooner."""
    is_bounded = time["low"] is not None and round(time["low"], 2) >= NO_MORE
    return is_bounded or (speed <= 0 and round(time["mean"], 2) >= 1 - WORTH_SAYING)


def _more(each: Facts, result: Facts) -> str:
    """Say what it would take to tell."""
    runs, time = len(result["runs"]), each["time"]
    if runs == 1:
        return "One run: more would tell (--seeds 3)."
    if time is None or _side(time, ALONE):
        return "Longer runs would tell (more epochs)."
    seeds = _seeds(time)
    if seeds is None:
        return f"The difference is too small for {MOST_SEEDS} runs to tell."
    return f"About {seeds} runs would tell (--seeds {seeds})."


def _seeds(ratio: Facts) -> int | None:
    """Estimate how many runs it takes until a ratio's interval excludes 1; None: too many."""
    from scipy.special import stdtrit

    runs, distance = len(ratio["values"]), abs(math.log(ratio["mean"]))
    half = math.log(ratio["high"] / ratio["low"]) / 2
    deviation = half * math.sqrt(runs) / stdtrit(runs - 1, 0.975)
    for seeds in range(runs + 1, MOST_SEEDS + 1):
        if stdtrit(seeds - 1, 0.975) * deviation / math.sqrt(seeds) < distance:
            return seeds
    return None


def _side(ratio: Facts | None, alone: float = 1 + WORTH_SAYING) -> int:
    """Return 1 where a ratio is clearly above 1, -1 where it is clearly below, 0 elsewhere.

    It is read as it is printed. A single run has to show a ratio of `alone`.
    """
    if ratio is None:
        return 0
    mean: float = round(ratio["mean"], 2)
    if ratio["low"] is None:
        return (mean >= round(alone, 2)) - (mean <= round(1 / alone, 2))
    low: float = round(ratio["low"], 2)
    high: float = round(ratio["high"], 2)
    above, below = low > 1 and mean >= 1 + WORTH_SAYING, high < 1 and mean <= 1 - WORTH_SAYING
    return above - below


def _better(each: Facts, first: Facts) -> int:
    """Return 1 where a metric is clearly better after the same tokens, -1 where worse, else 0."""
    gain = each["gain"]
    if gain is None or abs(gain["mean"]) < EQUAL:
        return 0
    low, high = float(gain["mean"]), float(gain["mean"])
    worth = WORSE_ALONE * max(float(first["improved"] or 0.0), 0.0)
    if gain["low"] is not None:
        low, high, worth = float(gain["low"]), float(gain["high"]), 0.0
    return (low > worth) - (high < -worth)


def _speed(each: Facts) -> str:
    speed = each["speed"]
    if abs(round(speed["mean"], 2) - 1) < WORTH_SAYING:
        return f"as many tokens per second as the baseline: {interval(speed)} ×"
    chance = ", which may be chance" if speed["low"] is not None and not _side(speed) else ""
    return f"{interval(speed)} × the tokens per second{chance}"


def _time(each: Facts, result: Facts) -> str:
    target, time, runs = target_name(result), each["time"], len(result["runs"])
    if time is not None:
        return f"{target} in {_share(time)}"
    said = []
    if each["lost"]:
        after = f" after {_share(each['touched'])}" if each["touched"] is not None else ""
        said.append(f"reached{after}, not held{_in_some(each['lost'], runs)}")
    if each["never"]:
        said.append(f"not reached{_in_some(each['never'], runs)}")
    return f"{target} {', '.join(said)}" if said else ""


def _share(time: Facts) -> str:
    """Write a ratio of times."""
    return f"{interval(time)} {'of' if round(time['mean'], 2) < 1 else '×'} the time"


def _in_some(count: int, runs: int) -> str:
    return "" if count == runs else f" in {count} of {runs} runs"


def _metric(each: Facts, result: Facts) -> str:
    """Say how good a metric is after the same tokens, beside the baseline's."""
    gain, first = each["gain"], strategies(result)[0]
    if gain is None:
        return ""
    if abs(gain["mean"]) < EQUAL:
        return "the same after the same tokens"
    side = "better" if gain["mean"] > 0 else "worse"
    chance = "" if _better(each, first) else ", which may be chance"
    return f"{abs(gain['mean']):.3g} {side} after the same tokens{chance}"


def _failed(whose: str, each: Facts, result: Facts) -> str:
    some = _in_some(each["failed"], len(result["runs"]))
    return f"{whose} loss became NaN or infinite{some}"


# -- The whole ------------------------------------------------------------------------------------


def _switch(verdict: Verdict, each: Facts, result: Facts) -> Headline:
    """Say what to switch to, and what it brings."""
    time, runs = each["time"]["mean"], len(result["runs"])
    said = [
        _in_short(verdict, each),
        f"{target_name(result)} in {time:.2f} of the time",
        _quality(each, result),
    ]
    text = f"Switch to {_phrase(each, result)}: {', '.join(filter(None, said))} ({_runs(runs)})."
    evidence = ""
    if runs == 1:
        strength = "strong" if time <= 1 / ALONE**2 else "weak"
        evidence = (
            f"One run is {strength} evidence here: seeds alone change such a time by up to a "
            "fifth. For an interval: --seeds 3."
        )
    return Headline("use", text, verdict.name, evidence)


def _unsure(verdict: Verdict, each: Facts, result: Facts) -> Headline:
    """Say what is known of the most promising strategy, and what it would take to tell."""
    runs, metric = _runs(len(result["runs"])), verdict.metric
    if _obstacle(each, result):
        return Headline("cannot tell", f"Cannot tell ({runs}): {verdict.why}", verdict.name)
    if not _better(each, strategies(result)[0]) and verdict.time:
        metric = ""
    known = ", ".join(filter(None, [_in_short(verdict, each), verdict.time, metric]))
    text = f"Cannot tell about {_phrase(each, result)}: {known} ({runs}). {verdict.why}"
    return Headline("cannot tell", text, verdict.name)


def _keep(verdict: Verdict, each: Facts, result: Facts) -> Headline:
    """Say that nothing is faster, and what comes closest."""
    kinds = {one["kind"] for one in result["strategies"]}
    what = "your batches" if len(kinds) > 1 else "what you have"
    closest = "; ".join(filter(None, [verdict.speed, verdict.time]))
    text = (
        f"Keep {what}: nothing here is faster ({_runs(len(result['runs']))}). "
        f"The closest is {_phrase(each, result)}: {closest}."
    )
    return Headline("do not use", text)


def _of_twins(first: Facts, twin: Facts) -> Headline:
    """Say whether a strategy and its own twin measure the same, as they should."""
    speed = twin["speed"]
    ends = speed["low"] or speed["mean"], speed["high"] or speed["mean"]
    is_certain = max(speed["mean"] / ends[0], ends[1] / speed["mean"]) < 1 + CERTAIN
    known = "" if speed["low"] is None else f", and its interval within {percent(CERTAIN)} of it"
    said = (
        f"{first['name']} and {twin['name']} are the same: the ratio of their speeds is "
        f"{interval(speed, digits=3)}, expected within {percent(WORTH_SAYING)} of 1{known}."
    )
    if abs(speed["mean"] - 1) < WORTH_SAYING and is_certain:
        return Headline("use", f"Self-check passed. {said} Smaller ratios mean nothing.")
    return Headline(
        "do not use",
        f"Self-check failed: the machine has other load, or runs are too short. {said}",
    )


def _promise(each: Facts) -> tuple[bool, float]:
    """Sort strategies by what they promise: first those that were sooner and held the target."""
    is_sooner = each["time"] is not None and each["time"]["mean"] < 1
    return not is_sooner, _estimate(each)


def _estimate(each: Facts) -> float:
    """Estimate the time to the target from what is known of it."""
    if each["failed"]:
        return math.inf
    for time in (each["time"], each["touched"]):
        if time is not None:
            return float(time["mean"])
    return 1 / float(each["speed"]["mean"])


def _quality(each: Facts, result: Facts) -> str:
    """Say how good the metric is at the end of a run, beside the baseline's."""
    gain, first = each["gain"], strategies(result)[0]
    if gain is None:
        return ""
    better = _better(each, first)
    if better:
        return f"{'better' if better > 0 else 'worse'} at the end"
    if abs(gain["mean"]) <= SAME * (first["improved"] or 0.0):
        return "as good at the end"
    side = "better" if gain["mean"] > 0 else "worse"
    return f"{abs(gain['mean']):.3g} {side} at the end, which may be chance"


def _phrase(each: Facts, result: Facts) -> str:
    """Name a strategy in words, by what differs from the baseline; or by the name it was given."""
    listed = {one["name"]: one for one in result["strategies"]}
    own, first = (listed.get(one["name"]) for one in (each, strategies(result)[0]))
    if own is None or first is None or not str(own["name"]).startswith(str(own["kind"])):
        return str(each["name"])
    precision = each["precision"] if each["precision"] != strategies(result)[0]["precision"] else ""
    order = own["order"].partition(":")[0] if own["order"] != first["order"] else ""
    if own["kind"] == first["kind"] and not order:
        return precision or str(each["name"])
    said = _KINDS[own["kind"]] + (f" in {precision}" if precision else "")
    return f"{said}, {_ORDERS.get(order, order)}" if order else said


def _in_short(verdict: Verdict, each: Facts) -> str:
    """Write the speed without its interval; nothing where it is the baseline's."""
    speed = each["speed"]["mean"]
    figure = f"{speed:.1f}" if speed >= 1.5 else f"{speed:.2f}"
    return "" if verdict.speed.startswith("as many") else f"{figure} × the tokens per second"


def _runs(count: int) -> str:
    return "one run" if count == 1 else f"{count} seeds"


def _is_null(result: Facts) -> bool:
    return [each["name"] for each in result["summary"][1:2]] == [TWIN]


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""
