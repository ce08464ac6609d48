"""Draw results of comparisons at random, and read every text beside its figures.

Usage: python -m tests.stress.verdicts [--results 5000] [--seed 0]

A result has one to six seeds and one to five strategies: their speeds, their metrics (lower or
higher is better) and when, and whether, they reach the target and hold it, losses that became NaN,
names that say what they are and names that do not. Half are drawn as figures, half as curves that
are then summarized. What is said of them is taken apart into words and numbers, without the code
that wrote it: each number has to be the figure's, as it is printed, and no word may say more than
the figures beside it.
"""

import argparse
import math
import re
import sys
from collections import Counter
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import numpy as np

from batchwright.compare.arm import Evaluation, Spent
from batchwright.compare.figures import difference, ratio, summarize
from batchwright.compare.race import Outcome
from batchwright.compare.verdicts import TWIN, arrival, headline, sentences, verdicts

Facts = dict[str, Any]

KINDS = ("plain", "grouped", "planned", "packed", "buckets")
ORDERS = ("shuffle", "curriculum", "curriculum:loss", "control")
METRICS = ("loss", "validation loss of a token", "accuracy", "F1")
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e-?\d+)?")
ONE, FIFTH = "one run", "a fifth"


def drawn(seed: int) -> Facts:
    """Draw a result."""
    rng = np.random.default_rng(seed)
    runs = int(rng.choice([0, 1, 1, 2, 3, 3, 5, 6], p=[0.02, *[0.98 / 7] * 7]))
    target = round(float(rng.uniform(0, 2)), 3) if rng.random() < 0.15 else None
    listed = _strategies(rng)
    if rng.random() < 0.5:
        summary = _figures(rng, listed, max(runs, 1), has_target=target is not None)
    else:
        summary = _curves(rng, listed, max(runs, 1), target)
    if rng.random() < 0.02:
        listed, summary = listed[:1], summary[:1]
    if rng.random() < 0.03 and len(summary) > 1:
        listed[1] |= {"name": TWIN}
        summary[1] |= {"name": TWIN}
    return {
        "summary": summary if rng.random() < 0.99 else [],
        "runs": [[]] * runs,
        "strategies": listed,
        "metric": str(rng.choice(METRICS)),
        "settings": {"target": target, "longer": float(rng.choice([0.0, 0.25]))},
    }


def _strategies(rng: np.random.Generator) -> list[Facts]:
    listed: list[Facts] = []
    for place in range(int(rng.integers(2, 6))):
        kind = KINDS[0] if place == 0 else str(rng.choice(KINDS))
        order = ORDERS[0] if place == 0 or rng.random() < 0.6 else str(rng.choice(ORDERS))
        precision = "fp32" if place == 0 or rng.random() < 0.6 else "bf16"
        parts = [kind, *([order] if order != "shuffle" else []), precision]
        name = "+".join(each for each in parts if each != "fp32")
        if rng.random() < 0.2:
            name = f"mine {place}"
        while name in {each["name"] for each in listed}:
            name += "-again"
        listed.append({"name": name, "kind": kind, "order": order, "precision": precision})
    return listed


def _figures(
    rng: np.random.Generator, listed: list[Facts], runs: int, *, has_target: bool
) -> list[Facts]:
    """Draw the figures themselves: those too that no curve would give."""
    improved = None if rng.random() < 0.03 else float(rng.normal(1, 0.5))
    scale = 10 ** rng.uniform(-4, 3)
    summary = []
    for place, each in enumerate(listed):
        spread = float(rng.choice([0.0, 0.001, 0.02, 0.1, 0.4]))
        ones = np.ones(runs)

        def around(middle: float, of: float) -> np.ndarray:
            return np.exp(math.log(middle) + of * rng.normal(size=runs))

        middle = float(np.exp(rng.choice([0.0, 0.01, 0.03, 0.3, 1.0]) * rng.normal()))
        speed = ratio(around(middle, float(rng.choice([0.001, 0.03]))), ones)
        near = rng.random() < 0.5
        time = ratio(
            around(1 / middle if near else float(np.exp(rng.normal() * 0.5)), spread), ones
        )
        gain = difference(scale * spread * (rng.normal() * rng.choice([0, 0.3, 3]) + rng.normal(size=runs)), 0 * ones)  # fmt: skip
        held = runs if rng.random() < 0.7 else int(rng.integers(0, runs + 1))
        lost = int(rng.integers(0, runs - held + 1))
        failed = int(rng.integers(1, runs + 1)) if rng.random() < 0.07 else 0
        if place == 0:
            held = runs if not has_target or rng.random() < 0.7 else held
            lost = min(lost, runs - held)
            speed, time = ratio(ones, ones), ratio(ones, ones)
            gain = difference(0 * ones, 0 * ones)
        touched = None
        if lost and rng.random() < 0.9:
            shares = np.exp(rng.normal(size=lost) * 0.4 - 0.5)
            touched = ratio(shares, np.ones(lost))
        known = not failed and rng.random() < 0.97
        summary.append({
            "name": each["name"],
            "precision": each["precision"],
            "speed": asdict(speed),
            "gain": asdict(gain) if known else None,
            "time": asdict(time) if held == runs and not failed else None,
            "improved": None if improved is None else improved * scale,
            "held": held if not failed else 0,
            "lost": lost if not failed else 0,
            "never": runs - held - lost if not failed else 0,
            "touched": None if touched is None or failed else asdict(touched),
            "failed": failed,
        })  # fmt: skip
    return summary


def _curves(
    rng: np.random.Generator, listed: list[Facts], runs: int, target: float | None
) -> list[Facts]:
    """Draw curves of learning, and summarize them."""
    sign, noise = float(rng.choice([1, -1])), float(rng.choice([0, 0.01, 0.05, 0.3]))
    arms = []
    for place, _ in enumerate(listed):
        steep = float(np.exp(rng.normal() * 0.3)) if place else 1.0
        turn = float(rng.uniform(0, 2)) if rng.random() < 0.3 else 0.0
        seconds = float(np.exp(rng.normal() * 0.6)) if place else 1.0
        arms.append((steep, turn, seconds))
    rows = []
    for _ in range(runs):
        row = []
        for each, (steep, turn, seconds) in zip(listed, arms, strict=True):
            longer = int(rng.choice([0, 0, 5]))
            at = np.concatenate([np.linspace(0, 1, 11), 1 + 0.05 * np.arange(1, longer + 1)])
            metric = 2 * np.exp(-steep * 3 * at) + turn * np.maximum(at - 0.5, 0)
            metric = sign * (metric + noise * rng.normal(size=at.size) * (at > 0))
            clock = seconds * at * float(np.exp(0.02 * rng.normal()))
            seen = tuple(
                Evaluation(round(1000 * a), float(s), float(m))
                for a, s, m in zip(at, clock, metric, strict=True)
            )
            spent = Spent(float(clock[10]), 1000, 1250, 80, 10, 20)
            failed = 7 if rng.random() < 0.02 else None
            end = None if failed else float(metric[10])
            row.append(Outcome(each["name"], each["precision"], spent, end, seen, 1.0, 1, failed))
        rows.append(row)
    task = SimpleNamespace(sign=sign, max_tokens=80)
    return [asdict(each) for each in summarize(rows, task, target=target)]  # type: ignore[arg-type]  # all that it reads


def contradictions(result: Facts) -> list[str]:
    """Return what the texts of a result say against its figures, or against one another."""
    found: list[str] = []
    head, said, judged = headline(result), sentences(result), verdicts(result)
    if not result["summary"]:
        return [] if head is None and not said else ["something is said of nothing"]
    assert head is not None
    if said[-1] != head.text:
        found.append("the headline does not come last")
    if any(not text.strip() or "  " in text or ".." in text for text in said):
        found.append(f"not a sentence: {said}")
    arms = result["summary"][1:]
    if TWIN in {each["name"] for each in arms[:1]}:
        return found + _of_twins(head.text, arms[0])
    if not result["runs"]:
        if judged or head.verdict != "cannot tell":
            found.append("a verdict before a run is complete")
        return found
    if [each.name for each in judged] != [each["name"] for each in arms]:
        found.append("not one verdict for each strategy")
    for verdict, each in zip(judged, arms, strict=False):
        wrong = _of_word(verdict.word, each, result)
        wrong += _of_text(verdict.text.removeprefix(f"{each['name']}: "), each, result)
        if not verdict.text.startswith(f"{each['name']}: {verdict.word}."):
            wrong.append("the sentence does not begin with the verdict")
        if (verdict.word == "cannot tell") != bool(verdict.why):
            wrong.append("what cannot be told, and only that, needs a reason")
        found += [f"{verdict.text}: {one}" for one in wrong]
    found += [f"{head.text}: {one}" for one in _of_headline(head, judged, arms, result)]
    return found


def _of_word(word: str, each: Facts, result: Facts) -> list[str]:
    """Compare a verdict with the figures."""
    runs, time, gain, touched = len(result["runs"]), each["time"], each["gain"], each["touched"]
    mean, low, high = (
        None if time is None or time[end] is None else round(time[end], 2)
        for end in ("mean", "low", "high")
    )
    is_known = gain is not None and gain["low"] is not None
    is_worse, is_better = is_known and gain["high"] < 0, is_known and gain["low"] > 0
    has_failed = bool(each["failed"] or result["summary"][0]["failed"])
    is_there = time is not None and each["held"] == runs and not each["never"] + each["lost"]
    never = not each["never"] + each["lost"] and time is None
    sooner = touched is not None and touched["mean"] < 1
    checks = {
        "faster": {
            "some loss became NaN": has_failed,
            "the target is not held in every run": not is_there,
            "its interval includes 1": mean is None or mean >= 1 or (high or 0) >= 1,
            "by less than seeds differ": runs == 1 and mean is not None and mean > 0.8,
            "the metric is significantly worse": is_worse,
        },
        "slower": {
            "some loss became NaN": has_failed,
            "its interval includes 1": mean is not None and min(mean, low or mean) <= 1,
            "the metric is significantly better": is_better,
            "it always arrived": never,
            "it was there sooner": time is None and sooner,
        },
        "no gain": {
            "it did not arrive": time is None and not each["failed"],
            "it is sooner": mean is not None and mean < 0.95,
            "the metric is significantly better": is_better and not each["failed"],
        },
        "cannot tell": {},
    }
    return [f"{word}, and {one}" for one, is_so in checks[word].items() if is_so]


def _of_text(text: str, each: Facts, result: Facts) -> list[str]:
    """Compare the words and numbers of a sentence on a strategy with its figures."""
    text = text.partition(" Or, if ")[0]  # advice on how the task says which metric is better
    gain = each["gain"]["mean"] if each["gain"] else math.nan
    speed, failed = each["speed"]["mean"], bool(each["failed"])
    first = result["summary"][0]
    shares = [one["mean"] for one in (each["time"], each["touched"]) if one is not None]
    checks = {
        "better": gain > 0,
        "worse": gain < 0,
        "the same after": abs(gain) < 1e-9,
        "may be chance": _may_be_chance(each, runs=len(result["runs"])),
        "not held": bool(each["lost"]),
        "not reached": bool(each["never"]),
        "of the time": any(round(share, 2) < 1 for share in shares),
        "× the time": any(round(share, 2) >= 1 for share in shares),
        "as many tokens": abs(speed - 1) < 0.035,
        "NaN": bool(failed or first["failed"]),
    }
    wrong = [
        f"says {word!r}"
        for word, is_so in checks.items()
        if word.lower() in text.lower() and not is_so
    ]
    needed = [] if failed or first["failed"] else ["not held", "not reached"]
    needed += ["NaN"] if failed else []
    if each["gain"] and ("better" in text or "worse" in text) and each["gain"]["low"] is not None:
        needed += ["may be chance"] if each["gain"]["low"] <= 0 <= each["gain"]["high"] else []
    wrong += [f"does not say {word!r}" for word in needed if checks[word] and word not in text]
    return wrong + _of_numbers(text, each, result)


def _may_be_chance(each: Facts, *, runs: int) -> bool:
    """Return whether the interval of some figure includes that there is no difference."""
    ends = [(each["gain"], 0.0), (each["speed"], 1.0)]
    return runs == 1 or any(
        figure["low"] <= at <= figure["high"]
        or round(figure["low"], 2) <= at <= round(figure["high"], 2)
        or abs(figure["mean"] - 1) < 0.035
        for figure, at in ends
        if figure is not None
    )


def _of_numbers(text: str, each: Facts, result: Facts) -> list[str]:
    allowed, found = _printed(each, result), NUMBER.findall(_without_names(text, result))
    return [f"{figure} is not among its figures" for figure in found if figure not in allowed]


def _of_headline(head: Any, judged: list[Any], arms: list[Facts], result: Facts) -> list[str]:
    """Compare the headline with the verdicts, and with the figures of what it names."""
    words, runs = {each.name: each.word for each in judged}, len(result["runs"])
    reasons = {each.name: each.why for each in judged}
    faster = [each for each in arms if words.get(each["name"]) == "faster"]
    is_use, is_unsure = head.verdict == "use", head.verdict == "cannot tell"
    checks = {
        "does not recommend what is faster, or what is not": is_use != bool(faster),
        "sure or not, other than the verdicts": is_unsure
        != (not faster and ("cannot tell" in words.values() or not words)),
        "not sure, and not why": is_unsure and words and reasons[head.name] not in head.text,
        "says to switch, or not": is_use != head.text.startswith("Switch to "),
        "says to keep, or not": (head.verdict == "do not use") != head.text.startswith("Keep "),
        "one run or several": words and (ONE in head.text) != (runs == 1),
        "not how many seeds": words and runs > 1 and f"{runs} seeds" not in head.text,
        "not how strong the evidence is": (is_use and runs == 1) != bool(head.evidence),
    }
    wrong = [what for what, is_so in checks.items() if is_so]
    return wrong + _of_switch(head, faster, result) if is_use else wrong


def _of_switch(head: Any, faster: list[Facts], result: Facts) -> list[str]:
    """Compare a recommendation with the figures of what it recommends."""
    each = next((each for each in faster if each["name"] == head.name), None)
    if each is None:
        return ["recommends what is not shown to be faster"]
    gain, improved = each["gain"]["mean"], result["summary"][0]["improved"]
    tokens = re.search(r"([\d.]+) × the tokens", head.text)
    best = min(one["time"]["mean"] for one in faster)
    is_strong = "strong" in head.evidence
    checks = {
        "another is faster": each["time"]["mean"] > best + 0.005,
        "the time is another": f"{each['time']['mean']:.2f} of the time" not in head.text,
        "the speed is another": tokens and abs(float(tokens[1]) - each["speed"]["mean"]) > 0.0501,
        "as good, and it is not": "as good" in head.text and abs(gain) > 0.0301 * improved,
        "stronger than it is": is_strong and each["time"]["mean"] > 0.641,
    }
    said = _of_text(head.text, each, result)
    return [what for what, is_so in checks.items() if is_so] + said


def _of_twins(text: str, twin: Facts) -> list[str]:
    speed = twin["speed"]
    is_near = abs(speed["mean"] - 1) < 0.03
    mean, low, high = (speed[end] or speed["mean"] for end in ("mean", "low", "high"))
    is_certain = mean / low < 1.1 and high / mean < 1.1
    if ("passed" in text) != (is_near and is_certain):
        return [f"{text}: the ratio is {speed}"]
    return []


def _printed(each: Facts, result: Facts) -> set[str]:
    """List the numbers that may be said of a strategy."""
    runs, first = len(result["runs"]), result["summary"][0]
    numbers = {str(count) for one in (each, first) for count in (one["failed"], one["never"], one["lost"], runs)}  # fmt: skip
    numbers |= {"3"} if runs == 1 else set()  # --seeds 3
    for figure in (each["speed"], each["time"], each["touched"]):
        ends = [figure[end] for end in ("mean", "low", "high")] if figure else []
        numbers |= {f"{end:.2f}" for end in ends if end is not None}
    numbers.add(f"{each['speed']['mean']:.1f}")
    if each["gain"] is not None:
        numbers.add(f"{abs(each['gain']['mean']):.3g}".replace("e+", "e"))
    if each["time"] is not None and runs > 1:
        numbers |= {str(seeds) for seeds in range(runs + 1, 21)}
    if result["settings"]["target"] is not None:
        numbers.add(f"{result['settings']['target']:g}")
    return numbers


def _without_names(text: str, result: Facts) -> str:
    """Leave out names, which may hold numbers."""
    names = [each["name"] for each in result["strategies"]] + ["bf16", "fp32", result["metric"]]
    for name in sorted(names, key=len, reverse=True):
        text = text.replace(name, "")
    return text.replace("e+", "e")


def run(results: int, seed: int, say: Any = print) -> int | None:
    """Check so many results; return the seed of one whose texts contradict it, or None."""
    words: Counter[str] = Counter()
    for number in range(seed, seed + results):
        result = drawn(number)
        found = contradictions(result)
        if found:
            for each in found:
                say(f"result {number}: {each}")
            return number
        head = headline(result)
        words[f"headline: {'nothing' if head is None else head.verdict}"] += 1
        words.update(each.word for each in verdicts(result))
        for each in result["summary"]:
            arrival(each)
    counted = ", ".join(f"{word} {count:,}" for word, count in sorted(words.items()))
    say(f"{results:,} results, no contradiction: {counted}")
    return None


def main() -> int:
    """Check results from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--results", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    return 0 if run(given.results, given.seed) is None else 1


if __name__ == "__main__":
    sys.exit(main())
