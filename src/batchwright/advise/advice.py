"""Advice on a technique: a verdict, the reason, and the expected gain with its origin."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Verdict: TypeAlias = Literal["use", "do not use", "cannot tell"]

Origin: TypeAlias = Literal["measured here", "computed from the plan", "published"]

WORTH = 1.03
"""Ratios below this are not worth a change."""


@dataclass(frozen=True)
class Gain:
    """The expected gain of a technique.

    Attributes:
        ratio: With the technique over without it.
        low: Lower end of the 95 % interval. None: computed, or of one run.
        high: The upper one.
        of: What is compared, as it follows "2 ×": ``"the real tokens per second"``.
        origin: Where the figure comes from.
        source: Who published it.
    """

    ratio: float
    low: float | None
    high: float | None
    of: str
    origin: Origin = "measured here"
    source: str = ""

    @property
    def verdict(self) -> Verdict:
        """Whether it is worth a change: the lower end counts, if there is one."""
        return "use" if (self.ratio if self.low is None else self.low) >= WORTH else "do not use"


@dataclass(frozen=True)
class Advice:
    """Advice on one technique.

    Attributes:
        technique: Its name.
        verdict: ``"use"``, ``"do not use"`` or ``"cannot tell"``.
        why: The reason, in a sentence or two.
        gain: The expected gain. None: unknown.
        settings: What to set, by the names of the library.
        untested: What was not looked at.
        rule: Name of the rule that gave the advice.
        strategy: The technique as a part of the name of a strategy in `compare`.
    """

    technique: str
    verdict: Verdict
    why: str
    gain: Gain | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    untested: str = ""
    rule: str = ""
    strategy: str = ""


def configuration(advice: Sequence[Advice]) -> str:
    """Return the name of the strategy that does everything advised, and nothing else.

    Example:
        >>> use = Advice("mixed precision", "use", "", strategy="bf16")
        >>> configuration([use, Advice("curriculum", "do not use", "", strategy="curriculum:loss")])
        'plain+bf16'
    """
    parts = [each.strategy for each in advice if each.verdict == "use" and each.strategy]
    kind = "planned" if "planned" in parts else "plain"
    return "+".join([kind, *(part for part in parts if part != "planned")])
