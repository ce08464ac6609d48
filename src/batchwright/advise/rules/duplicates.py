"""Leaving out what is there more than once: does it pay?"""

from batchwright.advise.advice import Advice, Gain
from batchwright.advise.rules.evidence import WORTH, Evidence


def duplicates(evidence: Evidence) -> Advice:
    """Keep one of several equal samples: use it where that saves tokens worth a change.

    Source: how many samples are equal byte for byte; that fewer of them do no harm: Lee et al.,
    *Deduplicating Training Data Makes Language Models Better*, 2021, arXiv:2107.06499.
    """
    technique = "deduplication"
    found = evidence.duplicates
    if found is None:
        why = "The samples themselves were not looked at."
        return Advice(technique, "cannot tell", why, untested="the samples")
    part = "" if found.is_complete else " that were looked at"
    if not found.num_repeated:
        why = f"None of the {found.num_samples:,} samples{part} is there twice."
        untested = "near duplicates" if found.is_complete else "near duplicates, and the rest"
        return Advice(technique, "do not use", why, untested=untested)
    saved = found.share if found.token_share is None else found.token_share
    gain = Gain(
        1 / (1 - saved), None, None, "as many distinct tokens an epoch", "computed from the plan"
    )
    why = (
        f"{found.num_repeated:,} of {found.num_samples:,} samples{part} are equal to an earlier "
        f"one, {saved:.1%} of the tokens; the most frequent is there {found.largest:,} times."
    )
    if found.num_contradicting:
        why += f" Equal samples have different labels: at least {found.num_contradicting:,} wrong."
    untested = "near duplicates; whether some also are in your validation data"
    settings = {"lengths": "lengths[kept], where kept = first_of_each(samples)"}
    if gain.ratio < WORTH:
        return Advice(technique, "do not use", why, gain, untested=untested)
    return Advice(technique, "use", why, gain, settings, untested)
