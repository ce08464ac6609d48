"""What is advised: a verdict, why, what is to be gained, and where that is known from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Verdict: TypeAlias = Literal["use", "do not use", "cannot tell"]

Origin: TypeAlias = Literal["measured here", "computed from the plan", "published"]


@dataclass(frozen=True)
class Gain:
    """What a technique is expected to be worth.

    Attributes:
        ratio: To doing without it.
        low: Lower end of its 95 % interval. None: it is computed, or of one sample.
        high: The upper one.
        of: What is compared, as it stands behind "2 ×": ``"as many real tokens a second"``.
        origin: Where that is known from.
        source: Who published it.
    """

    ratio: float
    low: float | None
    high: float | None
    of: str
    origin: Origin = "measured here"
    source: str = ""


@dataclass(frozen=True)
class Advice:
    """What is advised of one technique.

    Attributes:
        technique: Which.
        verdict: ``"use"``, ``"do not use"`` or ``"cannot tell"``.
        why: In a sentence or two.
        gain: What it is worth, or would be. None: unknown.
        settings: What to set, by the names of the library.
        untested: What was not looked at.
        rule: The function that says so.
        strategy: What `compare` calls it, as a part of a strategy's name.
    """

    technique: str
    verdict: Verdict
    why: str
    gain: Gain | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    untested: str = ""
    rule: str = ""
    strategy: str = ""
