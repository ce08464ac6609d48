"""The selection guide: a small function for each technique, with its source.

To add a rule, write a function here and add it to `RULES`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from batchwright._format import mebibytes, percent
from batchwright.advise.advice import WORTH, Advice, Gain
from batchwright.advise.data_profile import NUM_SHAPES, DataProfile
from batchwright.advise.duplicates import Duplicates
from batchwright.advise.machine import Hardware, ModelProfile
from batchwright.advise.sample_profiles import GroupProfile, LabelProfile
from batchwright.advise.trials import LearningTrial, SpeedTrial, faster

EVEN = 1.5  # classes of less imbalance count as balanced
MUCH, LITTLE = 0.2, 0.05  # shares of wrong labels: self-paced sampling helps from, or not below
UNCLEAR = 0.5  # an upper end of the noise above this is not reported
BATCHES = 8  # per update, from which stratified updates mix at least as well as a shuffle

SELF_PACED_GAIN = Gain(
    *(1.04, 1.03, 1.05),
    "the accuracy of early stopping, on digits with 40 % wrong labels",
    "published",
    "benchmarks/results/noisy_digits.json of this project",
)
"""Accuracy of `SelfPaced` over its control that stops early; ten seeds."""

_HALF_PRECISION_GAIN = Gain(
    *(2.0, None, None),
    "less activation memory (almost), at the same accuracy",
    "published",
    "Micikevicius et al., Mixed Precision Training, 2018, arXiv:1710.03740",
)

_CURRICULUM_GAIN = Gain(
    *(1.0, None, None),
    "the final metric, with clean data and a full budget",
    "published",
    "Wu, Dyer, Neyshabur, When Do Curricula Work?, 2021, arXiv:2012.03107",
)

_NOT_TRIED = "there was no time, or the metric did not improve"
_METRIC = "the metric (run batchwright compare)"

# `advise` adds the technique.
_use = partial(Advice, "", "use")
_avoid = partial(Advice, "", "do not use")
_unclear = partial(Advice, "", "cannot tell")


@dataclass(frozen=True)
class Evidence:
    """Everything that the rules use; None or empty where it is unknown.

    `learning` has short runs of ``"curriculum"``, and of ``"half"`` and ``"twice"`` the tokens per
    update, beside the best of the trials.
    """

    data: DataProfile
    hardware: Hardware | None = None
    trials: Mapping[str, SpeedTrial] = field(default_factory=dict)  # by name of the strategy
    difficulties: Sequence[str] = ()  # names of the scores that the task has
    learning: Mapping[str, LearningTrial] = field(default_factory=dict)
    model: ModelProfile | None = None
    step_tokens: int | None = None
    labels: LabelProfile | None = None
    duplicates: Duplicates | None = None
    groups: GroupProfile | None = None


def advise(evidence: Evidence) -> list[Advice]:
    """Apply every rule; what is to be used comes first, the largest gain before."""
    given = []
    for technique, rule in RULES.items():
        if evidence.data.is_constant and rule in {dynamic_batching, packing, static_shapes}:
            found = _avoid("All samples have the same length: there is no padding to save.")
        else:
            found = rule(evidence)
        given.append(replace(found, technique=technique, rule=rule.__name__))
    order = ("use", "cannot tell", "do not use")
    return sorted(
        given, key=lambda each: (order.index(each.verdict), -each.gain.ratio if each.gain else 0.0)
    )


def dynamic_batching(evidence: Evidence) -> Advice:
    """Batches of similar lengths, as many samples as fit: use them where padding can be saved.

    Source: the padding of plans of these lengths; with a task, the speed of both in turns.
    """
    data = evidence.data
    why = (
        f"Random batches within {data.max_tokens:,} tokens are {_padding(data, 'plain')} padding, "
        f"planned batches {_padding(data, 'planned')}, batches grouped by length as trainers do "
        f"{_padding(data, 'grouped')}."
    )
    gain, untested = _denser(data, "planned", "plain"), "the speed of your model"
    if trial := evidence.trials.get("planned"):
        gain, untested = trial.speed, _METRIC
        why += f" On your task, planned batches train {gain.ratio:.2f} times as fast."
    settings = {"batching": f"TokenBudget({data.max_tokens})"}
    return Advice("", gain.verdict, why, gain, settings, untested, strategy="planned")


def mixed_precision(evidence: Evidence) -> Advice:
    """Products in bf16 or fp16, weights in fp32: use it where it is measured to be faster here.

    Source: Micikevicius et al., *Mixed Precision Training*, 2018, arXiv:1710.03740; Kalamkar et
    al., *A Study of BFLOAT16*, 2019, arXiv:1905.12322. Narrow nets gain nothing, or lose:
    `python -m benchmarks.precision`.
    """
    kind = "planned" if "planned" in evidence.trials else "plain"
    gains = {
        trial.precision: faster(trial.speeds, evidence.trials[kind].speeds)
        for name, trial in evidence.trials.items()
        if name.startswith(f"{kind}+") and trial.precision != "fp32"
    }
    if gains:
        best = max(gains, key=lambda precision: gains[precision].ratio)
        gain, verdict = gains[best], gains[best].verdict
        listed = (f"{name} is {each.ratio:.2f} times as fast" for name, each in gains.items())
        why = f"Measured on updates of your task, beside fp32: {', '.join(listed)}."
        settings = {"precision": f'Precision("{best if verdict == "use" else "fp32"}")'}
        return Advice("", verdict, why, gain, settings, _METRIC, strategy=best)
    if evidence.hardware is None:
        return _unclear("Without torch, this machine cannot be measured.", _HALF_PRECISION_GAIN)
    measured = evidence.hardware.speed_over_fp32.values()
    fastest = max((ratio for each in measured for ratio in each.values()), default=1.0)
    why = (
        f"Matrix products are up to {fastest:.2f} times as fast as in fp32 here. How fast your "
        "model is depends on how wide it is."
    )
    untested = f"your model ({_try_by(evidence)})"
    return _unclear(why, _HALF_PRECISION_GAIN, {"precision": 'Precision("auto")'}, untested)


def packing(evidence: Evidence) -> Advice:
    """Several samples in a row without padding: for one fixed shape, with kernels for it.

    Source: Krell et al., *Efficient Sequence Packing without Cross-contamination*, 2021,
    arXiv:2107.02027. On CPUs, rows as long as a budget took 2 to 4 times as long as planned
    batches, since attention masks are dense there.
    """
    data = evidence.data
    if "packed" not in data.efficiency or "planned" not in data.efficiency:
        return _unclear("These samples cannot be packed into rows of this budget.")
    gain = _denser(data, "packed", "planned")
    why = (
        f"Packed rows are {_padding(data, 'packed')} padding, planned batches "
        f"{_padding(data, 'planned')}."
    )
    if evidence.hardware is not None and evidence.hardware.device == "cpu":
        why += " On a CPU, attention over packed rows needs a dense mask, which costs more."
        return _avoid(why, gain)
    why += " Pack only if you need rows of one fixed shape and have kernels for variable lengths."
    says = _unclear if gain.ratio > WORTH else _avoid
    untested = "attention kernels for variable lengths"
    return says(why, gain, {"batching": f"Packing({data.max_tokens})"}, untested)


def static_shapes(evidence: Evidence) -> Advice:
    """A few padded shapes: for compilers, which compile each shape anew.

    Source: compilations equal the number of shapes, with torch.compile and JAX
    (`python -m benchmarks.static_shapes`).
    """
    data = evidence.data
    if "buckets" not in data.efficiency:
        return _unclear(f"These samples do not fit into {NUM_SHAPES} shapes.")
    why = (
        f"{NUM_SHAPES} padded shapes leave {_padding(data, 'buckets')} padding. They help only if "
        "the model is compiled for each shape (JAX, or torch.compile without dynamic shapes)."
    )
    settings = {"batching": f"Buckets({NUM_SHAPES}, max_tokens={data.max_tokens})"}
    gain = _denser(data, "buckets", "planned")
    return _unclear(why, gain, settings, "whether the model is compiled")


def curriculum(evidence: Evidence) -> Advice:
    """Easy samples first: for noisy labels, or a short budget; not for clean data.

    Source: Wu, Dyer and Neyshabur, *When Do Curricula Work?*, 2021, arXiv:2012.03107: with clean
    data and a full budget, curricula, anticurricula and random orders end alike. With a task that
    has scores: short runs of it, judged by the time to the same metric.
    """
    why = (
        "With clean labels and a full budget, no order by difficulty is known to help. It can help "
        "if a fifth of the labels or more is wrong, or if training is cut short."
    )
    if not evidence.difficulties:
        noise = None if evidence.labels is None else evidence.labels.noise
        if noise is not None and noise.is_trusted and noise.low >= MUCH:
            why += f" About {noise.rate:.0%} of the labels are wrong here, and hard to learn."
            settings = {"order": "Curriculum(difficulty.out_of_fold(features, labels).loss)"}
            untested = "the metric (run batchwright compare, with such scores as difficulties)"
            return _unclear(why, None, settings, untested)
        untested = "your own scores" + ("" if noise else "; how many labels are wrong")
        return _avoid(why, _CURRICULUM_GAIN, untested=untested)
    name = evidence.difficulties[0]
    settings = {"order": f"Curriculum({name}, epochs=EPOCHS / 2)"}
    strategy = f"curriculum:{name}"
    untested = (
        "whether a set that grows in random order does as well (run batchwright compare "
        f"--strategies planned,planned+{strategy},planned+control:{name})"
    )
    trial = evidence.learning.get("curriculum")
    if trial is None:
        why += f" The scores of your task ({name}) could not be tried: {_NOT_TRIED}."
        return _unclear(why, _CURRICULUM_GAIN, settings, untested)
    why = f"Easy samples first, by {name}, compared with your order: {_sooner(trial)}."
    if trial.verdict == "cannot tell":
        why += " Seeds differ by as much: allow more --seconds for more runs."
    settings = {} if trial.verdict == "do not use" else settings
    return Advice("", trial.verdict, why, trial.sooner, settings, untested, strategy=strategy)


def tokens_per_update(evidence: Evidence) -> Advice:
    """Half or twice the tokens per update: by the loss at equal time, never by what fits.

    Source: McCandlish et al., *An Empirical Model of Large-Batch Training*, 2018,
    arXiv:1812.06162. In a short run, 60 large updates ended 0.8 nats above 800 small ones of the
    same tokens, more than any batching gains. With a task: short runs of it, with its own learning
    rate.
    """
    data, given = evidence.data, evidence.step_tokens
    if not evidence.learning or given is None:
        why = (
            "Tokens per update are a setting of the optimizer, not of memory. Keep the number that "
            f"your learning rate was tuned for. If you can choose, take {BATCHES} batches per "
            "update or more: they mix lengths at least as evenly as a plain shuffle."
        )
        settings = {"step_tokens": f"at least {BATCHES * data.max_tokens}, or a smaller max_tokens"}
        untested = f"the loss at equal time ({_try_by(evidence)})"
        return _unclear(why, None, settings, untested)
    sizes = {"half": given // 2, "twice": 2 * given}
    trials = {sizes[name]: evidence.learning[name] for name in sizes if name in evidence.learning}
    if not trials:
        return _unclear(f"Other numbers than {given:,} could not be tried: {_NOT_TRIED}.")
    best = max(trials, key=lambda size: trials[size].sooner.ratio)
    listed = "; ".join(f"with {size:,}, {_sooner(trial)}" for size, trial in trials.items())
    why = f"Compared with your {given:,} tokens per update: {listed}."
    untested = "other learning rates, which should be tuned together with it"
    if trials[best].verdict == "use":
        return _use(why, trials[best].sooner, {"step_tokens": str(best)}, untested)
    is_no_use = all(trial.verdict == "do not use" for trial in trials.values())
    return (_avoid if is_no_use else _unclear)(why, trials[best].sooner, untested=untested)


def memory_budget(evidence: Evidence) -> Advice:
    """A larger budget for batches: what fits, and what the peak consists of.

    It is never advised outright: it makes batches fewer, not updates better.

    Source: what `MemoryModel` predicts of the user's own step (`python -m
    benchmarks.memory_prediction` shows how well).
    """
    data, model = evidence.data, evidence.model
    if model is None or model.memory is None:
        why = "What fits into memory depends on the model."
        if model is not None:
            why += "".join(f" Unknown: {each}." for each in model.unknown if "memory" in each)
            if model.peak_bytes is not None:
                why += f" The largest plain batches took {mebibytes(model.peak_bytes)} MiB."
        untested = "the memory of a step (run batchwright advise on a task, or MemoryModel.fit)"
        return _unclear(why, untested=untested)
    memory = model.memory
    peak = max(size for _, _, size in memory.shapes)
    name, share, cure = memory.parts[0]
    why = (
        f"Batches of {data.max_tokens:,} tokens take up to {mebibytes(peak)} MiB, of which "
        f"{mebibytes(memory.state_bytes)} MiB are always in use. {share:.0%} of the peak is {name}."
    )
    why += f" To reduce it: {cure}." if cure else ""
    if memory.max_tokens is None or memory.max_tokens < WORTH * data.max_tokens:
        return _avoid(why)
    why += (
        f" Batches of {memory.max_tokens:,} tokens would fit into {mebibytes(memory.limit)} MiB. "
        "Larger batches help only until the device is busy; smaller ones mix updates better."
    )
    untested = (
        "the speed of larger batches (run batchwright compare, with max_tokens in a strategy)"
    )
    return _unclear(why, untested=untested)


def label_noise(evidence: Evidence) -> Advice:
    """Leave out the largest losses: where a fifth of the labels or more is wrong.

    Source: `python examples/studies/noisy_digits.py` (benchmarks/results/noisy_digits.json):
    with 40 % of labels wrong, self-paced sampling gains 9.7 points of accuracy over plain
    shuffling, of which early stopping gains 6.0; with none, it gains nothing. Han et al.,
    *Co-teaching*, 2018, arXiv:1804.06872.
    """
    labels, known, contradicting = evidence.labels, evidence.duplicates, ""
    if known is not None and known.num_contradicting:
        contradicting = (
            f" Equal samples have different labels: at least {known.num_contradicting:,} of "
            f"{known.num_samples:,} ({known.contradicting_share:.1%}) are wrong."
        )
    if labels is None or labels.noise is None:
        reason = "no labels were given" if labels is None else labels.noise_unknown
        why = f"It is unknown how many labels are wrong: {reason}.{contradicting}"
        return _unclear(why, untested="how many labels are wrong")
    noise = labels.noise
    why = (
        f"About {noise.rate:.0%} of the labels are wrong ({noise.low:.1%} to {noise.high:.1%}), "
        f"estimated on {noise.num_samples:,} samples by linear models that had not seen their "
        f"labels.{contradicting}"
    )
    if noise.high < LITTLE and not contradicting:
        return _avoid(f"{why} There is little to leave out.")
    if not noise.is_trusted:
        most = f"At most {noise.high:.0%} of the labels are wrong"
        if noise.high >= UNCLEAR:
            most = "How many labels are wrong cannot be estimated"
        why = f"{most}: {noise.doubt}.{contradicting}"
        return _unclear(why, untested="better features of the samples")
    settings = {"order": f"SelfPaced(LossTable(num_samples), noise_rate={noise.rate:.2f})"}
    untested = "the metric on correct labels, with early stopping beside it"
    if noise.low < MUCH:
        why += f" Self-paced sampling is known to help from {MUCH:.0%} on."
        return _unclear(why, None, settings, untested)
    why += (
        " In our study, early stopping alone brought three fifths of the gain of self-paced "
        "sampling over a plain shuffle: try it first."
    )
    return _use(why, SELF_PACED_GAIN, settings, untested)


def class_balance(evidence: Evidence) -> Advice:
    """Draw rare classes more often: for a metric that counts classes alike, not for accuracy.

    Source: Cao et al., *Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss*,
    2019, arXiv:1906.07413: balance helps late in training (from epoch 160 of 200), if classes count
    alike; Kang et al., *Decoupling Representation and Classifier*, 2020, arXiv:1910.09217: plain
    shuffles learn the better features.
    """
    labels = evidence.labels
    if labels is None:
        return _unclear("No labels were given: class balance is unknown.", untested="the labels")
    if labels.num_classes == 1:
        return _avoid("There is one class.")
    why = (
        f"The largest of {labels.num_classes:,} classes has {labels.imbalance:,.1f} times the "
        f"samples of the smallest ({labels.largest:,} and {labels.smallest:,})."
    )
    if labels.imbalance < EVEN:
        return _avoid(why)
    why += (
        " Balanced sampling can help if your metric counts all classes alike (macro averages). "
        "Accuracy on data of the original distribution usually falls."
    )
    settings = {"order": "ClassBalanced(labels, temperature=2, after=4 * EPOCHS // 5)"}
    return _unclear(why, None, settings, "your metric")


def duplicates(evidence: Evidence) -> Advice:
    """Keep one of several equal samples: where that saves enough tokens.

    Source: the number of samples that are equal byte for byte. That removing them does no harm: Lee
    et al., *Deduplicating Training Data Makes Language Models Better*, 2021, arXiv:2107.06499.
    """
    found = evidence.duplicates
    if found is None:
        return _unclear("The samples themselves were not compared.", untested="the samples")
    saved, what = found.share, "samples"
    if found.token_share is not None:
        saved, what = found.token_share, "tokens"
    part = "" if found.is_complete else " that were compared"
    why = (
        f"{found.num_repeated:,} of {found.num_samples:,} samples{part} are duplicates of an "
        f"earlier one: {saved:.1%} of the {what}."
    )
    if found.num_contradicting:
        why += f" At least {found.num_contradicting:,} labels of equal samples are wrong."
    untested = "near duplicates; whether validation data contain some of these samples"
    of = f"the distinct {what} per epoch"
    gain = Gain(1 / (1 - saved), None, None, of, "computed from the plan")
    if gain.ratio < WORTH:
        return _avoid(why, gain if found.num_repeated else None, untested=untested)
    settings = {"lengths": "lengths[kept], where kept = first_of_each(samples)"}
    return _use(why, gain, settings, untested)


def mixture(evidence: Evidence) -> Advice:
    """Draw small groups more often: for a metric that counts groups alike.

    Source: Arivazhagan et al., *Massively Multilingual Neural Machine Translation in the Wild*,
    2019, arXiv:1907.05019: a temperature of 5 helps rare languages and harms frequent ones.
    """
    groups = evidence.groups
    if groups is None:
        return _unclear("No groups were given: origins are unknown.", untested="the groups")
    if groups.num_groups == 1:
        return _avoid("There is one group.")
    largest, smallest = groups.largest[0], groups.smallest
    why = (
        f"Of {groups.num_groups:,} groups, {largest.name!r} has {largest.token_share:.1%} of the "
        f"tokens and {smallest.name!r} {smallest.token_share:.1%}. At temperature "
        f"{groups.temperature:g} they would have {largest.tempered_share:.1%} and "
        f"{smallest.tempered_share:.1%} of the draws, and each sample of {smallest.name!r} would "
        f"be drawn {smallest.tempered_epochs:.1f} times per epoch. Rare groups gain from that; "
        "frequent ones lose."
    )
    settings = {"order": f"Mixture(groups, temperature={groups.temperature:g})"}
    return _unclear(why, None, settings, "your metric, for each group")


RULES: dict[str, Callable[[Evidence], Advice]] = {
    "dynamic batching": dynamic_batching,
    "mixed precision": mixed_precision,
    "packing": packing,
    "static shapes": static_shapes,
    "curriculum": curriculum,
    "other tokens per update": tokens_per_update,
    "a larger memory budget": memory_budget,
    "self-paced": label_noise,
    "balanced sampling": class_balance,
    "deduplication": duplicates,
    "mixture of groups": mixture,
}
"""Technique → its rule."""


def _try_by(evidence: Evidence) -> str:
    has_task = evidence.step_tokens is not None
    return "give the trials more time" if has_task else "run batchwright advise on a task"


def _padding(data: DataProfile, kind: str) -> str:
    return percent(1 - data.efficiency[kind])


def _denser(data: DataProfile, kind: str, other: str) -> Gain:
    ratio = data.efficiency[kind] / data.efficiency[other]
    return Gain(ratio, None, None, "the share of real tokens", "computed from the plan")


def _sooner(trial: LearningTrial) -> str:
    runs = "one run" if trial.runs == 1 else f"{trial.runs} runs"
    return (
        f"{trial.sooner.ratio:.2f} times as fast to the same metric ({trial.least:.2f} to "
        f"{trial.most:.2f} along the way), in {runs} over {trial.share:.0%} of your training"
    )
