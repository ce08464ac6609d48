"""Draw what `advise` may know, and check that no text contradicts its figures.

Usage: python -m tests.stress.texts [--profiles 5000] [--seed 0]

Lengths are those of `tests.stress.profiles`; padding is that of their plans, or drawn, since plans
of real lengths do not meet every combination. Everything else is there or not: the machine, trials,
trials that had no time, short runs, labels, duplicates, groups, the model. The checks read the
texts: they know the figures, not how a rule chooses its words.
"""

import argparse
import ast
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from functools import partial
from unittest.mock import patch

import numpy as np

from batchwright.advise import (
    FRAMEWORKS,
    Advice,
    DataProfile,
    Duplicates,
    Evidence,
    Gain,
    Hardware,
    LabelProfile,
    LearningTrial,
    ModelProfile,
    NoiseEstimate,
    SpeedTrial,
    Untried,
    advise,
    headline,
    profile_data,
    profile_groups,
    snippet,
)
from batchwright.advise.evidence import Mix
from batchwright.advise.machine import Memory, agreeing
from batchwright.advise.trials import faster
from batchwright.stats.dial import POSITIONS, DialPosition
from tests.stress import profiles

WORTH = 1.03
BATCHING = {"dynamic batching", "packing", "static shapes"}
ORDERS = ("Curriculum", "SelfPaced", "ClassBalanced", "Mixture")

CONSTANTS = {
    "packing": {2, 4},  # times as long
    "static shapes": {8},
    "dynamic batching": {1},
    "other tokens per update": {8, 1},
    "mixed precision": {2, 16, 32},
}
"""Numbers that a rule may name and that are no figures of the evidence."""


class ContradictionError(AssertionError):
    """A text that its own figures contradict."""


@dataclass(frozen=True)
class Drawn:
    """What `advise` is asked with."""

    seed: int
    evidence: Evidence


def random_evidence(seed: int, *, most: int = 2_000) -> Drawn:
    """Draw what is known: the same for a seed."""
    rng = np.random.default_rng([seed, 20])

    def maybe(share: float = 0.5) -> bool:
        return bool(rng.random() < share)

    lengths = profiles.random_profile(seed, most=most).lengths
    options = {
        "max_tokens": int(lengths.max() * rng.uniform(1, 12)) + 1,
        "batch_size": int(rng.integers(1, 65)),
    }
    chosen = {name: each for name, each in options.items() if maybe(0.4)}
    data = _data(rng, lengths, chosen)
    if not data.is_constant and maybe():
        worse, better = np.sort(rng.uniform(0.02, 1, 2))
        drawn = {
            "plain": worse,
            "grouped": rng.uniform(0.02, 1),
            "planned": better if maybe(0.9) else worse * rng.uniform(0.9, 1),
            "packed": min(1.0, better * rng.choice([1.0, 1.01, 1.2, 3.5])),
            "buckets": rng.uniform(0.02, 1),
        }
        efficiency = {name: float(each) for name, each in drawn.items() if maybe(0.97)}
        data = replace(data, efficiency=efficiency)
    has_task = maybe(0.6)
    hardware = _hardware(rng) if maybe(0.8) else None
    is_unlike = has_task and not data.is_constant and maybe(0.3)
    mixes = _mixes(rng, data.max_tokens) if is_unlike else {}
    kinds = ["plain"] if data.is_constant else ["plain", "grouped", *(mixes or ["planned"])]
    trials = _trials(rng, kinds, hardware) if has_task and maybe(0.7) else {}
    learning, untried = {}, {}
    if has_task:
        if not trials:
            untried["speed"] = _untried(rng, "speed", reasons=("time",))
        for name in ("curriculum", "half", "twice", *mixes):
            if trials and maybe(0.6):
                learning[name] = _learning(rng, name)
            elif maybe(0.8):
                untried[name] = _untried(rng, name)
    model = _model(rng, data.max_tokens) if has_task and maybe(0.7) else None
    if has_task and model is None:
        untried["model"] = _untried(rng, "model", reasons=("time",))
    labels = _labels(rng, lengths.size) if maybe(0.6) else None
    shares = rng.dirichlet(np.full(int(rng.integers(1, 30)), 2.0))
    groups = [f"g{place}" for place in rng.choice(shares.size, lengths.size, p=shares)]
    evidence = Evidence(
        data,
        hardware,
        trials=trials,
        difficulties=("loss",) if has_task and maybe() else (),
        learning=learning,
        model=model,
        step_tokens=int(rng.integers(2, 10**6)) if has_task else None,
        labels=labels,
        duplicates=_duplicates(rng, lengths.size) if maybe(0.6) else None,
        groups=profile_groups(groups, lengths) if maybe() else None,
        epochs=int(rng.integers(1, 40)) if has_task else None,
        untried=untried,
        mixes=mixes,
    )
    return Drawn(seed, evidence)


def _data(rng: np.random.Generator, lengths: np.ndarray, chosen: dict[str, int]) -> DataProfile:
    """Profile lengths, most of them with a dial that is drawn, since planning one takes long."""
    if rng.random() < 0.1:
        return profile_data(lengths, **chosen)
    dial = tuple(
        DialPosition(mixing, 8, 80, float(rng.uniform(0.1, 1)), float(rng.lognormal(0, 1.5)))
        for mixing in POSITIONS
        if rng.random() < 0.9
    )
    with patch("batchwright.advise.data_profile.mixing_dial", return_value=dial):
        return profile_data(lengths, **chosen)


def _hardware(rng: np.random.Generator) -> Hardware:
    device = str(rng.choice(["cpu", "cuda"]))
    types = ["bf16", "fp16"] if device == "cuda" else ["bf16"]
    speeds = {}
    for each in types:
        middles = rng.uniform(0.3, 5, 2)
        found = {
            width: agreeing((middle * rng.uniform(0.8, 1.2, 6)).tolist())
            for width, middle in zip((128, 512), middles, strict=True)
        }
        speeds[each] = {width: known for width, known in found.items() if known is not None}
    return Hardware(device, "a machine", 2**34, 2, speeds)


def _mixes(rng: np.random.Generator, max_tokens: int) -> dict[str, Mix]:
    held = int(rng.integers(1, 8))
    unlike, alike = rng.uniform(2.1, 50), rng.uniform(0.1, 2)
    budgets = [max_tokens, max(1, max_tokens * held // 8)]
    drawn = zip(("planned", "mixed"), (held, 8), budgets, (unlike, alike), strict=True)
    return {each[0]: Mix(*each, float(rng.uniform(0.3, 1))) for each in drawn}


def _trials(
    rng: np.random.Generator, kinds: list[str], hardware: Hardware | None
) -> dict[str, SpeedTrial]:
    types = [] if hardware is None else list(hardware.speed_over_fp32)
    names = [*kinds, *(f"{kinds[-1]}+{each}" for each in types)]
    updates, noise = int(rng.integers(3, 30)), rng.uniform(0, 0.5)
    found: dict[str, SpeedTrial] = {}
    for name in names:
        factor = 1.0 if name == "plain" else rng.choice([0.8, 1.0, 1.03, 1.1, 2.0, 4.0])
        speeds = (1e4 * factor * rng.lognormal(0, noise, updates)).tolist()
        first = found["plain"].speeds if found else speeds
        found[name] = SpeedTrial(
            name=name,
            precision=name.partition("+")[2] or "fp32",
            updates=updates,
            run_seconds=float(rng.uniform(1, 1e4)),
            tokens_per_second=float(np.mean(speeds)),
            speed=faster(speeds, first),
            speeds=tuple(speeds),
        )
    return found


def _learning(rng: np.random.Generator, name: str) -> LearningTrial:
    ratio, spread = float(rng.choice([0.7, 1.0, 1.02, 1.1, 1.6])), float(rng.uniform(1, 1.5))
    runs = int(rng.choice([1, 3, 6]))
    low, high = (None, None) if runs == 1 else (ratio / spread, ratio * spread)
    wide = float(rng.uniform(1, 1.5))
    gain = Gain(ratio, low, high, "as fast to the same validation loss")
    return LearningTrial(
        name=name,
        share=float(rng.uniform(1 / 3, 1)),
        runs=runs,
        sooner=gain,
        least=ratio / wide,
        most=ratio * wide,
        gain=float(rng.normal()),
        held=bool(rng.random() < 0.7),
        needed=float(rng.integers(130, 5_000)) if rng.random() < 0.8 else None,
    )


def _untried(
    rng: np.random.Generator, name: str, reasons: tuple[str, ...] = ("time", "progress", "failure")
) -> Untried:
    reason = str(rng.choice(reasons))
    if reason != "time":
        return Untried(name, reason)
    unit = str(rng.choice(["seconds", "updates"]))
    return Untried(name, reason, float(rng.integers(130, 5_000)), float(rng.integers(1, 130)), unit)


def _model(rng: np.random.Generator, max_tokens: int) -> ModelProfile:
    peak = int(rng.integers(2**20, 2**34))
    fitting = int(max_tokens * rng.choice([0.3, 1.0, 1.02, 2.0, 9.0]))
    memory = Memory(
        state_bytes=int(peak * rng.uniform(0.01, 0.9)),
        shapes=((int(rng.integers(1, 99)), int(rng.integers(1, 999)), peak),),
        parts=(("activations", float(rng.uniform(0.3, 1)), "checkpoint blocks"),),
        limit=int(peak * rng.uniform(1, 8)),
        max_tokens=max(1, fitting) if rng.random() < 0.8 else None,
    )
    is_known = rng.random() < 0.7
    unknown = () if is_known else ("memory: it needs values",)
    return ModelProfile(10**6, peak, None, memory if is_known else None, unknown, 1.0)


def _labels(rng: np.random.Generator, size: int) -> LabelProfile:
    num_classes = int(rng.integers(1, 9))
    smallest = int(rng.integers(1, size))
    largest = smallest if rng.random() < 0.2 else int(rng.integers(smallest, size + 1))
    if num_classes == 1:
        largest = smallest = size
    noise, unknown = None, "no features or texts were given to predict labels from"
    if num_classes > 1 and rng.random() < 0.8:
        low, rate, high = np.sort(rng.uniform(0, rng.choice([0.04, 0.15, 0.6]), 3)).tolist()
        doubt = "" if rng.random() < 0.6 else "these features contain too little information"
        noise = NoiseEstimate(rate, low, high, min(size, 4_000), 1 - rate, 0.3, not doubt, doubt)
        unknown = ""
    return LabelProfile(
        *(size, num_classes, largest, smallest, largest / smallest, float(num_classes)),
        noise=noise,
        noise_unknown=unknown,
    )


def _duplicates(rng: np.random.Generator, size: int) -> Duplicates:
    repeated = int(size * rng.choice([0.0, 0.005, 0.1, 0.6]))
    token_share = float(rng.uniform(0, 0.7)) if repeated and rng.random() < 0.7 else None
    wrong = int(repeated * rng.choice([0.0, 0.01, 0.5])) if rng.random() < 0.6 else None
    return Duplicates(
        num_samples=size,
        num_distinct=size - repeated,
        num_repeated=repeated,
        share=repeated / size,
        largest=2 if repeated else 1,
        token_share=token_share,
        num_contradicting=wrong,
        contradicting_share=None if wrong is None else wrong / size,
        is_complete=bool(rng.random() < 0.8),
    )


def check_texts(drawn: Drawn) -> str:
    """Check all that `advise` says.

    Raises:
        ContradictionError: If a text and a figure do not agree.
    """
    evidence = drawn.evidence
    advice = advise(evidence)
    wrong = list(contradictions(evidence, advice))
    if wrong:
        raise ContradictionError("; ".join(wrong))
    return next((each.verdict for each in advice), "nothing")


def contradictions(evidence: Evidence, advice: list[Advice]) -> Iterator[str]:
    """Yield what texts say that their figures do not."""
    json.dumps([asdict(each) for each in advice], allow_nan=False)
    figures = np.array(list(_figures(evidence)))
    for each in advice:
        for found in (_of_form(each), _of_verdict(each), _of_phrases(evidence, each)):
            yield from (f"{each.technique}: {said}" for said in found)
        yield from _of_numbers(each, figures)
    yield from _of_figures(evidence, {each.technique: each for each in advice})
    yield from _of_headline(evidence, advice, figures)
    for framework in FRAMEWORKS:
        yield from (f"{framework}: {said}" for said in _of_snippet(evidence, advice, framework))


def _of_form(advice: Advice) -> Iterator[str]:
    if not advice.why.endswith(".") or ".." in advice.why:
        yield f"no sentence: {advice.why}"
    if not advice.short or advice.short.endswith(".") or len(advice.short) > 100:
        yield f"no short line: {advice.short!r}"
    for text in (advice.why, advice.short, advice.untested):
        if re.search(
            r"\bnan\b|\binf\b|None|  |\b1 (samples|runs|updates|classes|groups|labels)\b", text
        ):
            yield f"badly written: {text}"
    if advice.verdict == "use" and not advice.action:
        yield "nothing to do"
    if advice.verdict == "do not use" and advice.settings:
        yield f"settings of what is not used: {advice.settings}"


def _of_verdict(advice: Advice) -> Iterator[str]:
    gain = advice.gain
    if gain is None:
        return
    low, high = (gain.ratio if end is None else end for end in (gain.low, gain.high))
    if advice.verdict == "use" and (gain.ratio < WORTH or low <= 1):
        yield f"used at {gain}"
    if advice.verdict == "do not use" and high >= WORTH:
        yield f"not used at {gain}"


def _of_numbers(advice: Advice, figures: np.ndarray) -> Iterator[str]:
    allowed = CONSTANTS.get(advice.technique, set())
    for text in (advice.why, advice.short, advice.untested):
        for said in _numbers(text):
            if said.value not in allowed and not said.is_one_of(figures):
                yield f"{advice.technique}: {said.text!r} is no figure: {text}"


def _of_phrases(evidence: Evidence, advice: Advice) -> Iterator[str]:
    text, data = f"{advice.why} {advice.short}", evidence.data
    ratio = None if advice.gain is None else advice.gain.ratio
    if re.search(r"little (left )?to (save|be worth)", text) and (ratio or 0) > WORTH:
        yield f"little to save, beside {ratio}"
    if data.is_constant and re.search(r"\bmix(es|ing)?\b|padding →", text):
        yield f"mixing of equal lengths: {text}"
    if "on a task" in advice.untested and evidence.has_task:
        yield f"there is a task: {advice.untested}"
    if (least := _wrong_labels(evidence)) >= 0.05 and "clean" in text:
        yield f"clean labels, of which {least} are wrong: {text}"
    mix = data.dial[0].dispersion if data.dial else 0.0
    if ("as evenly" in text and mix > 1.05) or ("less evenly" in text and mix <= 1.05):
        yield f"a length mix of {mix}: {text}"
    if "plain,plain" in text + advice.untested:
        yield f"a comparison with itself: {advice.untested}"
    noise = None if evidence.labels is None else evidence.labels.noise
    if "little to leave out" in text and (noise is None or noise.high >= 0.05):
        yield f"little to leave out: {text}"


def _of_figures(evidence: Evidence, given: dict[str, Advice]) -> Iterator[str]:
    """Check figures of which there are two, and what trials without time need."""
    dynamic, efficiency = given["dynamic batching"], evidence.data.efficiency
    if " → " in dynamic.short:
        shown = [float(each) / 100 for each in re.findall(r"([\d.]+) %", dynamic.short)]
        expected = [1 - efficiency["plain"], 1 - efficiency["planned"]]
        if not np.allclose(shown, expected, atol=6e-4):
            yield f"padding {shown}, expected {expected}"
    places = {
        "dynamic batching": ("speed",) if dynamic.verdict == "use" else (),
        "mixed precision": ("speed",) if given["mixed precision"].settings else (),
        "other tokens per update": ("half", "twice"),
        "curriculum": ("curriculum",),
        "a larger memory budget": ("model",),
    }
    if "conflict" in dynamic.why and dynamic.verdict != "do not use":
        untried = [evidence.untried.get(name) for name in ("speed", *evidence.mixes)]
        needed = {f"--{one.unit} {one.needed:.0f}" for one in untried if one and one.needed}
        is_tried = set(evidence.mixes) & set(evidence.learning)
        if needed and not is_tried and not any(one in dynamic.untested for one in needed):
            yield f"dynamic batching: does not say what it needs: {dynamic.untested}"
    for technique, names in places.items():
        known = [evidence.untried.get(name) for name in names]
        is_tried = evidence.trials if names == ("speed",) else set(names) & set(evidence.learning)
        if is_tried or not any(known) or not all(known):
            continue
        if technique == "curriculum" and evidence.data.is_constant and not evidence.difficulties:
            continue
        needed = [each for each in known if each.needed is not None]
        text = f"{given[technique].why} {given[technique].untested}"
        if needed and not any(f"--{each.unit} {each.needed:.0f}" in text for each in needed):
            yield f"{technique}: does not say what it needs: {text}"


def _of_headline(evidence: Evidence, advice: list[Advice], figures: np.ndarray) -> Iterator[str]:
    first, used = headline(evidence, advice), [x for x in advice if x.verdict == "use"]
    if (first.verdict == "use") != bool(used):
        yield f"headline: {first.verdict} of {len(used)}"
    if not set(first.techniques) <= {each.technique for each in used}:
        yield f"headline: names {first.techniques}"
    for each in advice:
        if each.technique in first.techniques and each.action.lower() not in first.text.lower():
            yield f"headline: {each.action!r} is missing: {first.text}"
        if each.action and each.verdict != "use" and each.action.lower() in first.text.lower():
            yield f"headline: advises {each.technique}: {first.text}"
    if first.verdict == "use" and any(
        float(each) < WORTH for each in re.findall(r"([\d.]+) ×", first.text)
    ):
        yield f"headline: a gain that is none: {first.text}"
    if first.verdict == "do not use" and re.search("No clear|No advice", first.text):
        yield f"headline: {first.verdict}: {first.text}"
    if re.search(r"plain,plain\b(?!\+)", first.then) or first.text.count(".  "):
        yield f"headline: {first.then}"
    if not re.fullmatch(r"[A-Z].*\.", first.text) or len(first.text) > 320:
        yield f"headline: no sentence: {first.text}"
    for said in _numbers(first.text):
        counts = [len(used) - len(first.techniques), 1, 2]  # of what is not named
        if not said.is_one_of(np.append(figures, counts)):
            yield f"headline: {said.text!r} is no figure: {first.text}"


def _of_snippet(evidence: Evidence, advice: list[Advice], framework: str) -> Iterator[str]:
    data = evidence.data
    code = snippet(
        advice, data, framework, step_tokens=evidence.step_tokens, epochs=evidence.epochs
    )
    ast.parse(code)
    verdicts = {each.technique: each.verdict == "use" for each in advice}
    settings = {each.technique: each.settings for each in advice if each.verdict == "use"}
    if ("TokenBudget(" in code) != verdicts["dynamic batching"]:
        yield "batching that is not advised"
    if (f"FixedSize({data.batch_size})" in code) == verdicts["dynamic batching"]:
        yield "batches of another size"
    orders = [each["order"] for each in settings.values() if "order" in each]
    written = [name for name in ORDERS if f"order=bw.{name}(" in code]
    if len(orders) > 1 or [each.partition("(")[0] for each in orders] != written:
        yield f"orders {written}, advised {orders}"
    halves = re.search(r"bf16=True|fp16=True|Precision\(\"(bf|fp)16|-mixed|mixed_", code)
    if bool(halves) != verdicts["mixed precision"]:
        yield "precision that is not advised"
    if ("first_of_each(" in code) != verdicts["deduplication"]:
        yield "duplicates"
    if "STEP_TOKENS" in code or (evidence.epochs is not None and "EPOCHS" in code):
        yield "what is known is left open"
    tokens = evidence.step_tokens or data.step_tokens
    tokens = settings.get("other tokens per update", {}).get("step_tokens", tokens)
    is_open = evidence.step_tokens is None and "FixedSize(" in code  # updates are as now
    is_open = is_open and "step_tokens" not in settings.get("other tokens per update", {})
    if framework != "keras" and not is_open and f"step_tokens={tokens})" not in code:
        yield f"other tokens per update than {tokens}"
    slots = settings.get("dynamic batching", {}).get("accumulate")
    if (f".resized(1, {slots})" in code) != (slots is not None):
        yield "other batches per update than advised"


def _wrong_labels(evidence: Evidence) -> float:
    """Return the share of labels that is wrong at least."""
    known = [0.0]
    if evidence.duplicates is not None:
        known.append(evidence.duplicates.contradicting_share or 0.0)
    if evidence.labels is not None and evidence.labels.noise is not None:
        known.append(evidence.labels.noise.low if evidence.labels.noise.is_trusted else 0.0)
    return max(known)


@dataclass(frozen=True)
class Said:
    """A number in a text."""

    text: str
    value: float
    half: float  # of its last digit
    is_percent: bool

    def is_one_of(self, figures: np.ndarray) -> bool:
        """Whether it is a figure, rounded."""
        half = self.half * (1 + 1e-6) + 1e-9
        scale = 100 if self.is_percent else 1
        is_figure = np.abs(scale * figures - self.value) <= half
        # Mebibytes have two digits at least.
        sizes = figures[figures >= 2**16] / 2**20
        is_size = np.abs(sizes - self.value) <= max(half, 0.051 * self.value)
        return bool(is_figure.any() or (is_size.any() and not self.is_percent))


def _numbers(text: str) -> list[Said]:
    """Return the numbers of a text, without those in names."""
    found = []
    text = text.replace("< 0.001 %", "0.000 %")  # what is left of a share above 0
    for match in re.finditer(r"(?<![\w.])(\d[\d,]*(?:\.\d+)?)( ?%)?(?![\w])", text):
        digits = match[1].rstrip(",").replace(",", "")
        places = len(digits.partition(".")[2])
        found.append(Said(match[0], float(digits), 0.5 * 10**-places, bool(match[2])))
    return found


def _figures(evidence: Evidence) -> Iterator[float]:
    """Yield every number of the evidence, and what may be computed of several."""
    yield from _leaves(evidence)
    efficiency = evidence.data.efficiency
    for each in efficiency.values():
        yield 1 - each
        yield from (each / other for other in efficiency.values())
    yield from (1 - position.efficiency for position in evidence.data.dial)
    yield from (1 - mix.efficiency for mix in evidence.mixes.values())
    kinds = [each for each in ("mixed", "planned", "plain") if each in evidence.trials]
    for trial in evidence.trials.values():
        if kinds:
            gain = faster(trial.speeds, evidence.trials[kinds[0]].speeds)
            yield from _leaves(gain)
    if evidence.step_tokens is not None:
        yield from (evidence.step_tokens // 2, 2 * evidence.step_tokens)
    yield 0


def _leaves(value: object) -> Iterator[float]:
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return
    if isinstance(value, int | float | np.number):
        yield float(value)
    elif is_dataclass(value):
        for each in fields(value):
            if each.name not in {"histogram", "speeds"}:
                yield from _leaves(getattr(value, each.name))
    elif isinstance(value, dict):
        yield from _leaves(list(value))
        yield from _leaves(list(value.values()))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _leaves(each)


def main() -> int:
    """Read the arguments, and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profiles", type=int, default=5_000, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="of the first")
    parser.add_argument("--most", type=int, default=2_000, help="samples of a profile")
    given = parser.parse_args()
    draw = partial(random_evidence, most=given.most)
    wrong = profiles.run(given.profiles, given.seed, check=check_texts, draw=draw, name="texts")
    return 0 if wrong is None else 1


if __name__ == "__main__":
    sys.exit(main())
