"""Rules on labels: wrong ones, and the balance of classes."""

from batchwright._format import percent, plural
from batchwright.advise.advice import Advice, Gain
from batchwright.advise.evidence import Evidence
from batchwright.advise.noise_estimate import NoiseEstimate
from batchwright.advise.rules.orders import LITTLE, MUCH
from batchwright.advise.rules.wording import says

EVEN = 1.5  # classes of less imbalance count as balanced
UNCLEAR = 0.5  # a larger upper end of the noise is not reported

SELF_PACED_GAIN = Gain(
    *(1.04, 1.03, 1.05),
    "the accuracy of early stopping, on digits with 40 % wrong labels",
    "published",
    "benchmarks/results/noisy_digits.json of this project",
)
"""Accuracy of `SelfPaced` over its control that stops early; ten seeds."""


def label_noise(evidence: Evidence) -> Advice:
    """Leave out the samples with the largest losses, if at least a fifth of the labels is wrong.

    Source: `python examples/studies/noisy_digits.py` (benchmarks/results/noisy_digits.json):
    with 40 % of labels wrong, self-paced sampling gains 9.7 points of accuracy over plain
    shuffling, of which early stopping gains 6.0; with none, it gains nothing. Han et al.,
    *Co-teaching*, 2018, arXiv:1804.06872.
    """
    labels, contradicting = evidence.labels, _contradicting(evidence)
    if labels is None or labels.noise is None:
        reason = "no labels were given" if labels is None else labels.noise_unknown
        why = f"It is unknown how many labels are wrong: {reason}.{contradicting}"
        short = "how many labels are wrong is unknown"
        return says("cannot tell", short, why, untested="how many labels are wrong")
    noise, certain = labels.noise, _certain(evidence)
    if not noise.is_trusted:
        return _of_doubt(noise, contradicting, certain)
    between = f"{percent(noise.low)} to {percent(noise.high)}"
    why = (
        f"About {percent(noise.rate)} of the labels are wrong ({between}), estimated from "
        f"{noise.of}.{contradicting}"
    )
    short = f"about {percent(noise.rate)} of the labels are wrong"
    if certain > noise.high:
        why += " So the estimate is too low."
        short = f"at least {percent(certain)} of the labels are wrong"
        return says("cannot tell", short, why, untested="how many labels are wrong")
    if noise.high < LITTLE:
        short = f"at most {percent(noise.high)} of the labels are wrong"
        return says("do not use", short, f"{why} There is little to leave out.")
    settings = {"order": f"SelfPaced(LossTable(num_samples), noise_rate={noise.rate:.2f})"}
    untested = "the metric on correct labels, with early stopping beside it"
    if noise.low < MUCH:
        why += " Self-paced sampling is known to help if at least a fifth is wrong: not certain."
        return says("cannot tell", short, why, None, settings, untested=untested)
    why += (
        " In our study, early stopping alone brought three fifths of the gain of self-paced "
        "sampling over a plain shuffle: try it first."
    )
    return says(
        *("use", short, why, SELF_PACED_GAIN, settings),
        untested=untested,
        action="leave out the samples with the largest losses (SelfPaced)",
    )


def class_balance(evidence: Evidence) -> Advice:
    """Draw rare classes more often: for a metric that counts classes equally, not for accuracy.

    Source: Cao et al., *Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss*,
    2019, arXiv:1906.07413: balance helps late in training (from epoch 160 of 200), if classes count
    equally; Kang et al., *Decoupling Representation and Classifier*, 2020, arXiv:1910.09217: plain
    shuffles learn the better features.
    """
    labels = evidence.labels
    if labels is None:
        why = "No labels were given: class balance is unknown."
        return says("cannot tell", "no labels were given", why, untested="the labels")
    if labels.num_classes == 1:
        return says("do not use", "there is one class", "There is one class.")
    if labels.largest == labels.smallest:
        why = f"Each of {labels.num_classes:,} classes has {plural(labels.largest, 'sample')}."
        return says("do not use", "all classes are equally large", why)
    if labels.imbalance < EVEN:
        sizes = f"{labels.smallest:,} to {labels.largest:,} samples"
        why = f"{labels.num_classes:,} classes of {sizes} are nearly even."
        return says("do not use", "classes are nearly even", why)
    times = f"{labels.imbalance:,.1f} times"
    why = (
        f"The largest of {labels.num_classes:,} classes has {times} the samples of the smallest "
        f"({labels.largest:,} and {labels.smallest:,})."
    )
    why += (
        " Balanced sampling can help if your metric counts all classes equally (macro averages). "
        "Accuracy on data of the original distribution usually falls."
    )
    after = "4 * EPOCHS // 5" if evidence.epochs is None else 4 * evidence.epochs // 5
    settings = {"order": f"ClassBalanced(labels, temperature=2, after={after})"}
    short = f"the largest class has {times} the samples of the smallest: for macro averages"
    return says("cannot tell", short, why, None, settings, untested="your metric")


def _of_doubt(noise: NoiseEstimate, contradicting: str, certain: float) -> Advice:
    """Advise from an estimate that is not trusted, and probably too high."""
    most = f"At most {percent(noise.high)} of the labels are wrong"
    if noise.high >= UNCLEAR or noise.high < certain:
        most = "How many labels are wrong cannot be estimated"
    why, short = f"{most}: {noise.doubt}.{contradicting}", most[0].lower() + most[1:]
    if certain <= noise.high < LITTLE:
        return says("do not use", short, f"{why} There is little to leave out.")
    return says("cannot tell", short, why, untested="better features of the samples")


def _certain(evidence: Evidence) -> float:
    known = evidence.duplicates
    return 0.0 if known is None else known.contradicting_share or 0.0


def _contradicting(evidence: Evidence) -> str:
    known = evidence.duplicates
    if known is None or not known.num_contradicting or known.contradicting_share is None:
        return ""
    return (
        f" Equal samples have different labels: at least {known.num_contradicting:,} of "
        f"{known.num_samples:,} ({percent(known.contradicting_share)}) must be wrong."
    )
