"""Leaving out what the model finds hardest: does it pay?"""

from batchwright.advise.advice import Advice, Gain
from batchwright.advise.rules.evidence import Evidence

MUCH, LITTLE = 0.2, 0.05
"""Shares of wrong labels from which on it pays, and below which there is nothing to win."""

_TELLING = 0.5
"""An upper end above this tells nothing."""

STUDY = "benchmarks/results/noisy_digits.json of this project"

GAIN = Gain(
    *(1.04, 1.03, 1.05),
    "as many right answers as stopping early, on digits with 40 % of labels wrong",
    "published",
    STUDY,
)
"""Accuracy of `SelfPaced` over the control's that stops in time; ten seeds."""


def label_noise(evidence: Evidence) -> Advice:
    """Leave out the largest losses: where a fifth of the labels or more is wrong.

    Source: `python examples/noisy_digits.py` (its results: benchmarks/results/noisy_digits.json):
    with 40 % of labels wrong self-paced sampling gains 9.7 points of accuracy over plain
    shuffling, of which stopping early gains 6.0; with none it gains nothing. Han et al.,
    *Co-teaching*, 2018, arXiv:1804.06872.
    """
    technique = "self-paced"
    labels = evidence.labels
    contradicting = _contradicting(evidence)
    if labels is None or labels.noise is None:
        reason = "no labels were given" if labels is None else labels.noise_unknown
        why = f"How many labels are wrong is not known: {reason}.{contradicting}"
        return Advice(technique, "cannot tell", why, untested="how many labels are wrong")
    noise = labels.noise
    untested = "the metric on labels that are right, with stopping early beside it"
    why = (
        f"About {noise.rate:.0%} of the labels are wrong ({noise.low:.1%} to {noise.high:.1%}), by "
        f"a teacher that did not see them, on {noise.num_samples:,} samples.{contradicting}"
    )
    if noise.high < LITTLE and not contradicting:
        return Advice(technique, "do not use", f"{why} There is little to leave out.")
    if not noise.is_trusted:
        most = "How many labels are wrong cannot be told"
        if noise.high < _TELLING:
            none = "" if contradicting else ", perhaps none"
            most = f"At most {noise.high:.0%} of the labels are wrong{none}"
        why = f"{most}: {noise.doubt}.{contradicting}"
        return Advice(technique, "cannot tell", why, untested="better features of the samples")
    settings = {"order": f"SelfPaced(LossTable(num_samples), noise_rate={noise.rate:.2f})"}
    if noise.low < MUCH:
        why += f" Gains are known from {MUCH:.0%} on."
        return Advice(technique, "cannot tell", why, None, settings, untested)
    why += (
        " In our study stopping early alone gave three fifths of what self-paced sampling gains "
        "over plain shuffling: try that first."
    )
    return Advice(technique, "use", why, GAIN, settings, untested)


def _contradicting(evidence: Evidence) -> str:
    """Say how many labels are wrong for sure, or nothing."""
    found = evidence.duplicates
    if found is None or not found.num_contradicting:
        return ""
    share = found.num_contradicting / found.num_samples
    return (
        f" Equal samples have different labels: {found.num_contradicting:,} of "
        f"{found.num_samples:,} ({share:.1%}) are wrong at the least."
    )
