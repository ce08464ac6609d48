"""Which samples to keep, and how often to draw them."""

from batchwright._format import number, percent
from batchwright.advise.advice import WORTH, Advice, Gain
from batchwright.advise.evidence import Evidence
from batchwright.advise.rules.labels import EVEN
from batchwright.advise.rules.wording import says


def duplicates(evidence: Evidence) -> Advice:
    """Keep one of several equal samples, if that saves enough tokens.

    Source: the number of samples that are equal byte for byte. Removing them does no harm: Lee et
    al., *Deduplicating Training Data Makes Language Models Better*, 2021, arXiv:2107.06499.
    """
    found = evidence.duplicates
    if found is None:
        why = "The samples themselves were not compared."
        return says("cannot tell", "samples were not compared", why, untested="the samples")
    untested = "near duplicates; whether validation data contain some of these samples"
    part = "" if found.is_complete else " that were compared"
    if not found.num_repeated:
        why = f"Each of {found.num_samples:,} samples{part} occurs once."
        return says("do not use", "no sample occurs twice", why, untested=untested)
    saved, what = found.share, "samples"
    if found.token_share is not None:
        saved, what = found.token_share, evidence.data.unit
    short = f"duplicates are {percent(saved)} of the {what}"
    why = (
        f"{found.num_repeated:,} of {found.num_samples:,} samples{part} are duplicates of an "
        f"earlier one: {percent(saved)} of the {what}."
    )
    if found.num_contradicting:
        why += f" Their labels differ: at least {found.num_contradicting:,} must be wrong."
    of = f"the distinct {what} per epoch"
    gain = Gain(1 / (1 - saved), None, None, of, "computed from the plan")
    if gain.ratio < WORTH:
        return says("do not use", short, f"{why} That is little.", gain, untested=untested)
    settings = {"lengths": "lengths[kept], where kept = first_of_each(samples)"}
    action = "keep one of several equal samples"
    return says("use", short, why, gain, settings, untested=untested, action=action)


def mixture(evidence: Evidence) -> Advice:
    """Draw small groups more often: for a metric that counts groups equally.

    Source: Arivazhagan et al., *Massively Multilingual Neural Machine Translation in the Wild*,
    2019, arXiv:1907.05019: a temperature of 5 helps rare languages and harms frequent ones.
    """
    groups = evidence.groups
    if groups is None:
        why = "No groups were given, so it is unknown where samples come from."
        return says("cannot tell", "no groups were given", why, untested="the groups")
    if groups.num_groups == 1:
        return says("do not use", "there is one group", "There is one group.")
    largest, smallest = groups.largest[0], groups.smallest
    least, most = percent(smallest.share), percent(largest.share)
    if largest.num_samples < EVEN * smallest.num_samples or least == most:
        why = (
            f"{groups.num_groups:,} groups of {smallest.num_samples:,} to "
            f"{largest.num_samples:,} samples are nearly even."
        )
        return says("do not use", "groups are nearly even", why)
    why = (
        f"Of {groups.num_groups:,} groups, {largest.name!r} has {most} of the samples and "
        f"{smallest.name!r} {least}. "
        f"At temperature {groups.temperature:g} they would have {percent(largest.tempered_share)} "
        f"and {percent(smallest.tempered_share)} of the draws, and each sample of "
        f"{smallest.name!r} would be drawn {number(smallest.tempered_epochs)} times per epoch. "
        "Rare groups gain from that; frequent ones lose."
    )
    settings = {"order": f"Mixture(groups, temperature={groups.temperature:g})"}
    short = f"groups hold {least} to {most} of the samples: if your metric counts groups equally"
    return says("cannot tell", short, why, None, settings, untested="your metric, for each group")
