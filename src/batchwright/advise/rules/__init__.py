"""The selection guide: a small function for each technique, with its source.

Another rule is a file here, and its name in `RULES`.
"""

from dataclasses import replace

from batchwright.advise.advice import Advice
from batchwright.advise.rules.class_balance import class_balance
from batchwright.advise.rules.curriculum import curriculum
from batchwright.advise.rules.duplicates import duplicates
from batchwright.advise.rules.dynamic_batching import dynamic_batching
from batchwright.advise.rules.evidence import WORTH, Evidence, Rule
from batchwright.advise.rules.label_noise import label_noise
from batchwright.advise.rules.memory_budget import memory_budget
from batchwright.advise.rules.mixed_precision import mixed_precision
from batchwright.advise.rules.mixture import mixture
from batchwright.advise.rules.packing import packing
from batchwright.advise.rules.static_shapes import static_shapes
from batchwright.advise.rules.tokens_per_update import tokens_per_update

__all__ = ["RULES", "WORTH", "Evidence", "Rule", "advise"]

RULES: tuple[Rule, ...] = (
    dynamic_batching,
    mixed_precision,
    packing,
    static_shapes,
    curriculum,
    tokens_per_update,
    memory_budget,
    label_noise,
    class_balance,
    duplicates,
    mixture,
)


def advise(evidence: Evidence) -> list[Advice]:
    """Ask every rule, and put first what is to be used, the largest gain before."""
    given = [replace(rule(evidence), rule=rule.__name__) for rule in RULES]
    order = {"use": 0, "cannot tell": 1, "do not use": 2}

    def key(advice: Advice) -> tuple[int, float]:
        return order[advice.verdict], 0.0 if advice.gain is None else -advice.gain.ratio

    return sorted(given, key=key)
