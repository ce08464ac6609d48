"""The selection guide: a small function for each technique, with its source.

To add a rule, write a function in one of the files here and add it to `RULES`.
"""

from collections.abc import Callable
from dataclasses import replace

from batchwright.advise.advice import Advice
from batchwright.advise.evidence import Evidence
from batchwright.advise.rules.batching import dynamic_batching, packing, static_shapes
from batchwright.advise.rules.labels import class_balance, label_noise
from batchwright.advise.rules.orders import curriculum
from batchwright.advise.rules.precision import mixed_precision
from batchwright.advise.rules.samples import duplicates, mixture
from batchwright.advise.rules.updates import memory_budget, tokens_per_update

__all__ = ["RULES", "advise"]

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

_VERDICTS = ("use", "cannot tell", "do not use")


def advise(evidence: Evidence) -> list[Advice]:
    """Apply every rule; techniques to use come first, those with the largest gain before others."""
    given = {
        technique: replace(rule(evidence), technique=technique, rule=rule.__name__)
        for technique, rule in RULES.items()
    }
    return sorted(_of_one_order(given), key=_rank)


def _rank(advice: Advice) -> tuple[int, float]:
    return _VERDICTS.index(advice.verdict), -advice.gain.ratio if advice.gain else 0.0


def _of_one_order(given: dict[str, Advice]) -> list[Advice]:
    """Samples can have only one order: prefer the one that was measured on the task."""
    measured, other = given["curriculum"], given["self-paced"]
    if measured.verdict == other.verdict == "use":
        why = f"{other.why} A plan has one order, and the curriculum was measured on your task."
        given["self-paced"] = replace(other, verdict="cannot tell", why=why)
    return list(given.values())
