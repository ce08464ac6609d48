"""What rules go by, and how they weigh it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from batchwright.advise.advice import Advice, Gain, Verdict
from batchwright.advise.data_profile import DataProfile
from batchwright.advise.duplicates import Duplicates
from batchwright.advise.group_profile import GroupProfile
from batchwright.advise.hardware import Hardware
from batchwright.advise.label_profile import LabelProfile
from batchwright.advise.trials import Trial

WORTH = 1.03
"""Ratios below this are not worth a change."""


@dataclass(frozen=True)
class Evidence:
    """All that rules go by.

    Attributes:
        data: What lengths tell.
        hardware: What the machine is. None: unknown.
        trials: Name of a strategy → its trial on the user's task; empty without a task.
        difficulties: Scores that the task has.
        labels: What labels tell. None: unknown.
        duplicates: How many samples are there more than once. None: unknown.
        groups: What groups tell. None: unknown.
    """

    data: DataProfile
    hardware: Hardware | None = None
    trials: Mapping[str, Trial] = field(default_factory=dict)
    difficulties: Sequence[str] = ()
    labels: LabelProfile | None = None
    duplicates: Duplicates | None = None
    groups: GroupProfile | None = None


Rule: TypeAlias = Callable[[Evidence], Advice]
"""A small function: all that is known → what is advised of one technique."""


def worthwhile(gain: Gain) -> Verdict:
    """Say whether a gain is worth a change, as far as is known."""
    return "use" if (gain.ratio if gain.low is None else gain.low) >= WORTH else "do not use"


def over(trial: Trial, other: Trial) -> Gain:
    """Compare two trials update by update."""
    from batchwright.compare.ratios import ratio

    over = ratio(trial.speeds, other.speeds)
    return Gain(over.mean, over.low, over.high, "real tokens a second", "measured here")
