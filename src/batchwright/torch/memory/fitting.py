"""From a task to what is known of its memory: predicted, confirmed, or measured step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from batchwright.errors import BatchwrightError, BudgetError
from batchwright.torch.memory.copies import random_states_kept
from batchwright.torch.memory.envelope import Moment, moments_of, rows_within
from batchwright.torch.memory.fake_step import FakeStep
from batchwright.torch.memory.probing import (
    Probe,
    fake_courses,
    grown_probes,
    refuse_deaf,
    through,
)
from batchwright.torch.memory.real_step import can_measure, real_steps
from batchwright.torch.memory.task import StateBytes, Task
from batchwright.typing import IntArray

_HALF = 0.5


@dataclass(frozen=True, eq=False)
class Scope:
    """What shapes a memory model is fitted for.

    Attributes:
        lengths: int64[d], the lengths there are, from short to long.
        limit: Bytes that training may take, state included.
        margin: Share of a step's bytes to keep free when it is run for real.
    """

    lengths: IntArray
    limit: int
    margin: float

    @property
    def shortest(self) -> int:
        """The shortest length."""
        return int(self.lengths[0])

    @property
    def longest(self) -> int:
        """The longest length."""
        return int(self.lengths[-1])

    def room(self, state: StateBytes) -> float:
        """Return the bytes that the state leaves for a step.

        Raises:
            BudgetError: If it leaves none.
        """
        room = self.limit - state.total
        if room <= 0:
            raise BudgetError(
                f"limit={self.limit:,} bytes, but parameters, gradients and optimizer state alone "
                f"take {state.total:,}. Raise it, or use a smaller model or optimizer."
            )
        return float(room)


@dataclass(frozen=True)
class Findings:
    """What was found out about the memory of a task.

    Attributes:
        state: What is there throughout training.
        moments: The curves whose highest is the peak of a step, above the state.
        probes: The shapes that the curves were fitted to.
        confirmations: Real steps beside their prediction.
        ratio: The largest of measured ÷ predicted among them; 1 if there are none.
        reason: Why steps were measured and not predicted. None: they were predicted.
    """

    state: StateBytes
    moments: tuple[Moment, ...]
    probes: tuple[Probe, ...]
    confirmations: tuple[Probe, ...] = ()
    ratio: float = 1.0
    reason: str | None = None


def find(task: Task, scope: Scope, *, confirm: bool, measure: bool = True) -> Findings:
    """Find out, leaving the task and the random states as they were.

    Args:
        task: The task.
        scope: The shapes that matter.
        confirm: Whether to run a few steps for real.
        measure: Whether to run real steps where fake ones cannot be.

    Returns:
        What was found.

    Raises:
        BudgetError: If the state leaves no room, or if steps can neither be predicted nor
            measured.
    """
    with random_states_kept(task.model):
        refuse_deaf(task.batch, scope.lengths)
        try:
            return _predicted(task, scope, confirm=confirm and can_measure(task.device))
        except BatchwrightError:
            raise
        except Exception as error:  # models raise anything when they see no values
            if measure:
                return _measured(task, scope, error)
            said = f"fake tensors cannot run this step ({_first_line(error)})."
            raise BudgetError(said) from error


def ratio_of(confirmations: Sequence[Probe]) -> float:
    """Return the largest of measured ÷ predicted; 1 of none."""
    ratios = [(each.measured or 0) / each.predicted for each in confirmations]
    return max(ratios, default=1.0)


def _predicted(task: Task, scope: Scope, *, confirm: bool) -> Findings:
    run = FakeStep(task, scope.shortest)
    courses = fake_courses(run, scope.lengths, capacity=scope.room(run.state))
    probes = tuple(Probe(each.rows, each.length, each.timeline.peak) for each in courses)
    found = Findings(run.state, moments_of(courses), probes)
    return _confirmed(task, scope, found, run) if confirm else found


def _confirmed(task: Task, scope: Scope, found: Findings, fake: FakeStep) -> Findings:
    """Run long rows to half the budget, then short ones to the whole, as the first step has it."""
    capacity = scope.room(found.state) / (1 + scope.margin)
    done: list[Probe] = []
    with real_steps(task, scope.shortest) as run:
        for length, share in ((scope.longest, _HALF), (scope.shortest, 1.0)):
            room = capacity / ratio_of(done)
            rows = int(float(rows_within(found.moments, share * room, length)))
            if rows < 1:
                rows = int(float(rows_within(found.moments, room, length)) >= 1)
            if rows:
                # Beside the step itself, not the curve through all of them.
                predicted = fake(rows, length).peak
                done.append(Probe(rows, length, predicted, run(rows, length)))
    return replace(found, confirmations=tuple(done), ratio=ratio_of(done))


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"


def _measured(task: Task, scope: Scope, error: Exception) -> Findings:
    reason = _first_line(error)
    if not can_measure(task.device):
        raise BudgetError(
            f"fake tensors cannot run this step ({reason}), and {task.device.type} does not tell "
            "how much memory it takes. Fit it on the processor."
        ) from error
    with real_steps(task, scope.shortest) as run:
        capacity = scope.room(run.state)
        probes = grown_probes(run, scope.lengths, capacity=capacity)
        return Findings(run.state, through(probes, capacity), tuple(probes), reason=reason)
