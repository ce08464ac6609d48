"""Sources in other shares than they come: does it pay?"""

from batchwright.advise.advice import Advice
from batchwright.advise.rules.evidence import Evidence


def mixture(evidence: Evidence) -> Advice:
    """Draw small groups more often than they come: for a metric that counts groups alike.

    Source: Arivazhagan et al., *Massively Multilingual Neural Machine Translation in the Wild*,
    2019, arXiv:1907.05019: a temperature of 5 raises rare languages and lowers frequent ones.
    """
    technique = "mixture of groups"
    groups = evidence.groups
    if groups is None:
        why = "No groups were given: where samples come from is not known."
        return Advice(technique, "cannot tell", why, untested="the groups")
    if groups.num_groups == 1:
        return Advice(technique, "do not use", "There is one group.")
    largest, smallest = groups.largest[0], groups.smallest
    why = (
        f"Of {groups.num_groups:,} groups {largest.name!r} has {largest.token_share:.1%} of the "
        f"tokens, {smallest.name!r} {smallest.token_share:.1%}. At temperature "
        f"{groups.temperature:g} they would have {largest.tempered_share:.1%} and "
        f"{smallest.tempered_share:.1%} of the draws, and each sample of {smallest.name!r} would "
        f"be drawn {smallest.tempered_epochs:.1f} times an epoch: rare groups gain, frequent ones "
        "lose."
    )
    settings = {"order": f"Mixture(groups, temperature={groups.temperature:g})"}
    return Advice(technique, "cannot tell", why, None, settings, "your metric, for each group")
