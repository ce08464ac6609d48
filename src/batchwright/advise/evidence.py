"""Everything that the rules of `advise` use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from batchwright.advise.data_profile import DataProfile
from batchwright.advise.duplicates import Duplicates
from batchwright.advise.learning_trials import LearningTrial
from batchwright.advise.machine import Hardware, ModelProfile
from batchwright.advise.sample_profiles import GroupProfile, LabelProfile
from batchwright.advise.trials import SpeedTrial, Untried


@dataclass(frozen=True)
class Mix:
    """A way to plan the updates of a task."""

    strategy: str  # its name in `compare`
    accumulate: int  # batches of an update
    max_tokens: int  # budget of a batch
    dispersion: float  # length mix of updates: 1 is a plain shuffle
    efficiency: float


@dataclass(frozen=True)
class Evidence:
    """Everything that the rules use; None or empty if unknown.

    `learning` has short runs of ``"curriculum"``, and of ``"half"`` and ``"twice"`` the tokens per
    update, compared with the best of the trials; if updates of planned batches are unlike one
    another, also of ``"planned"`` and ``"mixed"``, compared with plain batches. `untried` says why
    one of them, or ``"speed"``, has no result.
    """

    data: DataProfile
    hardware: Hardware | None = None
    trials: Mapping[str, SpeedTrial] = field(default_factory=dict)  # by name of the strategy
    difficulties: Sequence[str] = ()  # names of the scores that the task has
    learning: Mapping[str, LearningTrial] = field(default_factory=dict)
    model: ModelProfile | None = None
    step_tokens: int | None = None  # of the task. None: there is no task
    labels: LabelProfile | None = None
    duplicates: Duplicates | None = None
    groups: GroupProfile | None = None
    epochs: int | None = None  # of the task
    untried: Mapping[str, Untried] = field(default_factory=dict)
    mixes: Mapping[str, Mix] = field(default_factory=dict)  # by strategy, if updates are unlike

    @property
    def has_task(self) -> bool:
        """Whether a task was given, not lengths alone."""
        return self.step_tokens is not None

    def is_slower(self, name: str) -> bool:
        """Say whether trials of speed show that a strategy is slower than the first."""
        trial = self.trials.get(name)
        return trial is not None and trial.speed.high is not None and trial.speed.high < 1
