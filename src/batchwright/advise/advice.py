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
    """The expected gain of a technique."""

    ratio: float  # with the technique over without it
    low: float | None  # lower end of the 95 % interval. None: computed, or of one run
    high: float | None  # the upper one
    of: str  # what is compared, as it follows "2 ×": ``"the real tokens per second"``
    origin: Origin = "measured here"  # where the figure comes from
    source: str = ""  # who published it

    @property
    def verdict(self) -> Verdict:
        """Whether it is worth a change: the lower end counts, if there is one."""
        return "use" if (self.ratio if self.low is None else self.low) >= WORTH else "do not use"


@dataclass(frozen=True)
class Advice:
    """Advice on one technique."""

    technique: str  # its name
    verdict: Verdict  # ``"use"``, ``"do not use"`` or ``"cannot tell"``
    why: str  # the reason, in a sentence or two
    gain: Gain | None = None  # the expected gain. None: unknown
    settings: Mapping[str, Any] = field(default_factory=dict)  # by the names of the library
    untested: str = ""  # what was not looked at
    rule: str = ""  # name of the rule that gave the advice
    strategy: str = ""  # the technique as a part of the name of a strategy in `compare`


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
