"""The selection guide: a small function for each technique, with its source."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from batchwright.advise.advice import Advice, Gain, Verdict
from batchwright.advise.data_profile import NUM_SHAPES, DataProfile
from batchwright.advise.hardware import Hardware
from batchwright.advise.trials import Trial

WORTH = 1.03
"""Ratios below this are not worth a change."""

BATCHES = 8
"""Batches of an update from which on stratified updates mix at least as well as a shuffle."""


@dataclass(frozen=True)
class Evidence:
    """All that rules go by.

    Attributes:
        data: What lengths tell.
        hardware: What the machine is. None: unknown.
        trials: Name of a strategy → its trial on the user's task; empty without a task.
        difficulties: Scores that the task has.
    """

    data: DataProfile
    hardware: Hardware | None = None
    trials: Mapping[str, Trial] = field(default_factory=dict)
    difficulties: Sequence[str] = ()


def dynamic_batching(evidence: Evidence) -> Advice:
    """Batches of like lengths, as many samples as fit: use it where padding is to be saved.

    Source: what plans of these lengths pad; with a task, updates of both in turns.
    """
    data = evidence.data
    technique = "dynamic batching"
    settings = {"batching": f"TokenBudget({data.max_tokens})"}
    if data.is_constant:
        return Advice(technique, "do not use", "All samples are equally long: nothing is padded.")
    plain, planned = data.efficiency["plain"], data.efficiency["planned"]
    gain = Gain(planned / plain, None, None, "real tokens a padded cell", "computed from the plan")
    why = (
        f"Random batches within {data.max_tokens:,} tokens are {1 - plain:.0%} padding, planned "
        f"ones {1 - planned:.1%}; sorting by length in megabatches, as trainers do, leaves "
        f"{1 - data.efficiency['grouped']:.1%}."
    )
    untested = "what a step of your model costs"
    trial = evidence.trials.get("planned")
    if trial is not None:
        gain, untested = trial.speed, "the metric: batchwright compare"
        why += f" On your task planned batches train {trial.speed.ratio:.2f} × as fast."
    return Advice(technique, _verdict(gain), why, gain, settings, untested)


def packing(evidence: Evidence) -> Advice:
    """Several samples in a row without padding: for one fixed shape, with kernels that know it.

    Source: Krell et al., *Efficient Sequence Packing without Cross-contamination*, 2021,
    arXiv:2107.02027; on processors rows as long as a budget took 2 to 4 times the time of planned
    batches, as attention masks are dense there.
    """
    data = evidence.data
    technique = "packing"
    if "packed" not in data.efficiency or "planned" not in data.efficiency:
        return Advice(technique, "cannot tell", "These samples cannot be packed into such rows.")
    ratio = data.efficiency["packed"] / data.efficiency["planned"]
    gain = Gain(ratio, None, None, "real tokens a padded cell", "computed from the plan")
    why = (
        f"Packed rows are {1 - data.efficiency['packed']:.1%} padding, planned batches "
        f"{1 - data.efficiency['planned']:.1%}: there is little left to save."
    )
    if data.is_constant:
        return Advice(technique, "do not use", "All samples are equally long: nothing is padded.")
    if evidence.hardware is not None and evidence.hardware.device == "cpu":
        why += " On a processor attention over packed rows needs a dense mask, which costs more."
        return Advice(technique, "do not use", why, gain)
    settings = {"batching": f"Packing({data.max_tokens})"}
    if ratio > WORTH:
        return Advice(technique, "cannot tell", why, gain, settings, "kernels for variable lengths")
    why += " Pack only for rows of one fixed shape, with kernels for variable lengths."
    return Advice(technique, "do not use", why, gain, settings, "kernels for variable lengths")


def static_shapes(evidence: Evidence) -> Advice:
    """A few padded shapes: for compilers, which compile each shape anew.

    Source: compilations equal the number of shapes, with torch.compile and JAX
    (`python -m benchmarks.static_shapes`).
    """
    data = evidence.data
    technique = "static shapes"
    if data.is_constant:
        return Advice(technique, "do not use", "All samples are equally long: one shape.")
    if "buckets" not in data.efficiency:
        return Advice(technique, "cannot tell", f"No {NUM_SHAPES} shapes hold these samples.")
    ratio = data.efficiency["buckets"] / data.efficiency["planned"]
    gain = Gain(ratio, None, None, "real tokens a padded cell", "computed from the plan")
    why = (
        f"{NUM_SHAPES} padded shapes leave {1 - data.efficiency['buckets']:.1%} padding. That pays "
        "if the model is compiled for each shape (JAX, torch.compile without dynamic shapes), and "
        "only then."
    )
    settings = {"batching": f"Buckets({NUM_SHAPES}, max_tokens={data.max_tokens})"}
    return Advice(technique, "cannot tell", why, gain, settings, "whether the model is compiled")


def tokens_per_update(evidence: Evidence) -> Advice:
    """What an update learns from: a setting of its own, never what fits into memory.

    Source: McCandlish et al., *An Empirical Model of Large-Batch Training*, 2018,
    arXiv:1812.06162; on a short run 60 large updates ended 0.8 nats above 800 small ones of the
    same tokens, more than any batching gains.
    """
    data = evidence.data
    why = (
        "Tokens per update are the optimizer's, not the memory's. Keep those that your learning "
        f"rate was tuned for; if you are free, {BATCHES} batches an update or more mix lengths at "
        "least as evenly as a plain shuffle."
    )
    position = next((each for each in data.dial if each.mixing == "stratified"), None)
    if position is not None:
        why += f" With {BATCHES} the dispersion of updates is {position.dispersion:.2f} here."
    settings = {"step_tokens": f"at least {BATCHES * data.max_tokens}, or max_tokens smaller"}
    untested = "the loss at equal time: batchwright compare --target"
    return Advice("tokens per update", "cannot tell", why, None, settings, untested)


def mixed_precision(evidence: Evidence) -> Advice:
    """Products in bf16 or fp16, weights in fp32: use it where it is measured to be faster here.

    Source: Micikevicius et al., *Mixed Precision Training*, 2018, arXiv:1710.03740; Kalamkar et
    al., *A Study of BFLOAT16*, 2019, arXiv:1905.12322; that narrow nets gain nothing, or lose:
    `python -m benchmarks.precision`.
    """
    technique = "mixed precision"
    measured, plain = evidence.trials.get("planned+auto"), evidence.trials.get("planned")
    if measured is not None and plain is not None:
        if measured.precision == "fp32":
            why = "Steps of your model in fewer bits were not faster than in fp32, measured here."
            return Advice(technique, "do not use", why, None, {"precision": "fp32"})
        gain = _over(measured, plain)
        why = (
            f"In {measured.precision} your task trains {gain.ratio:.2f} × as fast as in fp32, "
            "measured here in turns."
        )
        settings = {"precision": f'Precision("{measured.precision}")'}
        untested = "the metric: batchwright compare"
        return Advice(technique, _verdict(gain), why, gain, settings, untested)
    if evidence.hardware is None:
        why = "Without torch no product could be timed; without a task no model is known."
        return Advice(technique, "cannot tell", why)
    told = [
        f"{name} products of width {width} take {1 / ratio:.2f} of fp32's time"
        for name, ratios in evidence.hardware.speed_over_fp32.items()
        for width, ratio in ratios.items()
    ]
    why = f"On this {evidence.hardware.device} {'; '.join(told)}. A model decides which counts."
    settings = {"precision": 'Precision("auto")'}
    return Advice(technique, "cannot tell", why, None, settings, "your model: advise on a task")


def curriculum(evidence: Evidence) -> Advice:
    """Easy samples first: for noisy labels, or a budget that is short; not for clean data.

    Source: Wu, Dyer and Neyshabur, *When Do Curricula Work?*, 2021, arXiv:2012.03107: with clean
    data and a full budget curricula, anticurricula and random orders end alike.
    """
    technique = "curriculum"
    why = (
        "With clean labels and a full budget no order of difficulty is known to help. It can where "
        "a fifth of the labels or more is wrong, or training is cut short; and then a set that "
        "grows in random order is the control to beat."
    )
    if not evidence.difficulties:
        return Advice(technique, "do not use", why, untested="how many labels are wrong")
    scores = ", ".join(evidence.difficulties)
    why += f" Your task has scores ({scores}): only whole runs tell what they are worth."
    settings = {"order": f"Curriculum({evidence.difficulties[0]})"}
    untested = "batchwright compare --strategies planned,planned+curriculum,planned+control"
    return Advice(technique, "cannot tell", why, None, settings, untested)


Rule = Callable[[Evidence], Advice]

RULES: tuple[Rule, ...] = (
    dynamic_batching,
    mixed_precision,
    packing,
    static_shapes,
    tokens_per_update,
    curriculum,
)


def advise(evidence: Evidence) -> list[Advice]:
    """Ask every rule, and put first what is to be used, the largest gain before."""
    given = [replace(rule(evidence), rule=rule.__name__) for rule in RULES]
    order = {"use": 0, "cannot tell": 1, "do not use": 2}

    def key(advice: Advice) -> tuple[int, float]:
        return order[advice.verdict], 0.0 if advice.gain is None else -advice.gain.ratio

    return sorted(given, key=key)


def _verdict(gain: Gain) -> Verdict:
    """Say whether a gain is worth a change, as far as is known."""
    return "use" if (gain.ratio if gain.low is None else gain.low) >= WORTH else "do not use"


def _over(trial: Trial, other: Trial) -> Gain:
    """Compare two trials update by update."""
    from batchwright.compare.ratios import ratio

    over = ratio(trial.speeds, other.speeds)
    return Gain(over.mean, over.low, over.high, "real tokens a second", "measured here")
