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
from batchwright.advise.learning import LearningTrial
from batchwright.advise.model_profile import ModelProfile
from batchwright.advise.trials import Trial

WORTH = 1.03
"""Ratios below this are not worth a change."""

ALONE = 1.25
"""What one run alone has to show: seeds alone make a fifth of difference."""


@dataclass(frozen=True)
class Evidence:
    """All that rules go by.

    Attributes:
        data: What lengths tell.
        hardware: What the machine is. None: unknown.
        trials: Name of a strategy → its trial on the user's task; empty without a task.
        difficulties: Scores that the task has.
        learning: ``"curriculum"``, ``"half"``, ``"twice"`` (the tokens of an update) → what its
            short runs showed, beside the best of the trials; those that were not run are absent.
        model: What the model is. None: unknown.
        step_tokens: Tokens of an update, as the task has them. None: unknown.
        labels: What labels tell. None: unknown.
        duplicates: How many samples are there more than once. None: unknown.
        groups: What groups tell. None: unknown.
    """

    data: DataProfile
    hardware: Hardware | None = None
    trials: Mapping[str, Trial] = field(default_factory=dict)
    difficulties: Sequence[str] = ()
    learning: Mapping[str, LearningTrial] = field(default_factory=dict)
    model: ModelProfile | None = None
    step_tokens: int | None = None
    labels: LabelProfile | None = None
    duplicates: Duplicates | None = None
    groups: GroupProfile | None = None


Rule: TypeAlias = Callable[[Evidence], Advice]
"""A small function: all that is known → what is advised of one technique."""


def worthwhile(gain: Gain) -> Verdict:
    """Say whether a gain is worth a change, as far as is known."""
    return "use" if (gain.ratio if gain.low is None else gain.low) >= WORTH else "do not use"


def learnt(trial: LearningTrial) -> Verdict:
    """Say whether short runs show a technique to be sooner.

    Of several runs the interval counts, of one its worst and its best moment, and more is asked of
    it.
    """
    gain = trial.sooner
    if gain.low is None or gain.high is None:
        if gain.ratio >= ALONE and trial.least >= WORTH:
            return "use"
        return "do not use" if trial.most < WORTH else "cannot tell"
    if gain.ratio >= WORTH and gain.low >= 1.0:
        return "use"
    return "do not use" if gain.high < WORTH else "cannot tell"
