"""A finding: what is wrong, by how much, what that costs, and the cure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from batchwright.doctor.records import Run

Level = Literal["error", "warning", "info"]
"""``"error"``: the script does not train what was intended; ``"warning"``: it wastes time or
memory, or may learn worse; ``"info"``: good to know."""

LEVELS: tuple[Level, ...] = ("error", "warning", "info")
"""From the worst on."""


@dataclass(frozen=True)
class Finding:
    """Something that was seen in a run; the fields are keys of the JSON."""

    name: str  # a few words, the same in every report: "same order in every epoch"
    level: Level
    figure: str  # what was seen, as a sentence with its figures
    cost: str  # what that costs, as a sentence; "": unknown
    cure: str  # what to do, as a sentence in the imperative
    # Of the time, samples or gradient that is lost, or of the order that is not shuffled; 0 to 1.
    # Findings with the largest share come first.
    share: float = 0.0
    code: Sequence[str] = ()  # the cure as lines to copy


class Check(Protocol):
    """Looks for one kind of fault, or for a few that are seen in the same figures."""

    def __call__(self, run: Run) -> Iterator[Finding]:
        """Yield what is found; nothing if the record is not sufficient."""
