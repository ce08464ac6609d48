"""One claim: what is claimed, within which bounds, and what was seen."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Verdict: TypeAlias = Literal["kept", "missed", "shown", "too few"]
"""``"shown"``: nothing was promised. ``"too few"``: missed, by a run of too few samples."""


@dataclass(frozen=True)
class Claim:
    """A claim beside the figure that was seen.

    Attributes:
        subject: Of what it is claimed: the data, the batching, the ranks.
        name: What is claimed.
        figure: What was seen.
        at_least: The least that keeps the claim. None: no lower bound.
        at_most: The most that keeps the claim. None: no upper bound. Without any bound the
            figure is shown beside the others, and promises nothing.
        aim: Something better than the bound, to be reached if possible; at most this.
        at_any_size: Whether the claim holds for few samples too, as promises do that are no
            matter of speed or of averages.
        unit: Of the figure.
        note: How the figure came about.
        more: Further figures for the file.
    """

    subject: str
    name: str
    figure: float
    at_least: float | None = None
    at_most: float | None = None
    aim: float | None = None
    at_any_size: bool = False
    unit: str = ""
    note: str = ""
    more: dict[str, object] = field(default_factory=dict)

    @classmethod
    def true(cls, subject: str, name: str, seen: bool) -> "Claim":
        """Claim something that is either so or not."""
        return cls(subject, name, float(seen), at_least=1.0, at_any_size=True, unit="yes/no")

    def verdict(self, *, quick: bool) -> Verdict:
        """Say whether the figure keeps the claim; in a quick run, whether it could be expected."""
        if self.at_least is None and self.at_most is None:
            return "shown"
        low = self.at_least is None or self.figure >= self.at_least
        high = self.at_most is None or self.figure <= self.at_most
        if low and high:
            return "kept"
        return "too few" if quick and not self.at_any_size else "missed"

    @property
    def target(self) -> str:
        """The bounds, as one reads them."""
        if self.unit == "yes/no":
            return "yes"
        bounds = [
            f"{sign} {_shown(bound)}"
            for sign, bound in (("≥", self.at_least), ("≤", self.at_most))
            if bound is not None
        ]
        aim = [f"(aim ≤ {_shown(self.aim)})"] if self.aim is not None else []
        return " and ".join(bounds) + "".join(f" {each}" for each in aim)

    @property
    def seen(self) -> str:
        """The figure, as one reads it."""
        if self.unit == "yes/no":
            return "yes" if self.figure else "no"
        return f"{_shown(self.figure)} {self.unit}".rstrip()

    def as_json(self, *, quick: bool) -> dict[str, object]:
        """Return what the file keeps."""
        bounds = {"at_least": self.at_least, "at_most": self.at_most, "aim": self.aim}
        return {
            "subject": self.subject,
            "claim": self.name,
            "target": self.target,
            "figure": self.figure,
            "unit": self.unit,
            "verdict": self.verdict(quick=quick),
            **{name: bound for name, bound in bounds.items() if bound is not None},
            **({"note": self.note} if self.note else {}),
            **({"more": self.more} if self.more else {}),
        }


Samples = Callable[[int], int]
"""How many samples to take instead of a number: all of them, or fewer in a quick run."""

Claims = Callable[[Samples], Iterator[Claim]]


def _shown(figure: float) -> str:
    if figure == int(figure) and abs(figure) >= 1_000:
        return f"{int(figure):,}"
    # Figures near 1 are told apart by what they lack to it.
    return f"{figure:.5f}".rstrip("0").rstrip(".") if 0.9 < figure < 1.1 else f"{figure:.3g}"
