"""One seed of a comparison: all arms on the same task, taking turns."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from batchwright._checks import keep_whole
from batchwright.compare import arm_process
from batchwright.compare.arm import Arm, Evaluation, RaceArm, Spent
from batchwright.compare.arm_process import ArmProcess
from batchwright.compare.arrivals import arrival, target_of
from batchwright.compare.probes import Facts
from batchwright.compare.strategy import Strategy
from batchwright.compare.task import Task
from batchwright.errors import TaskError
from batchwright.typing import State

DENSE_SHARE = 1 / 3
"""The dense limit only has to show its speed: it trains this share of a run."""

MOST_EVALUATIONS = 100_000


@dataclass(frozen=True)
class Settings:
    """How long arms train, and how often they are evaluated."""

    evaluations: int = 10  # during a run, at equal shares of its updates, after one before it
    longer: float = 0.25  # share of the run that arms which end worse than the first may go on for
    target: float | None = None  # metric whose time is measured. None: the first arm's final one
    peaks: bool = True  # whether peak memory is measured

    def __post_init__(self) -> None:
        """Check the number of evaluations."""
        keep_whole(self, "evaluations", most=MOST_EVALUATIONS, error=TaskError)


@dataclass(frozen=True)
class Outcome:
    """The result of an arm in a run."""

    name: str  # of the strategy, or ``"dense limit"``
    precision: str
    spent: Spent  # in the run, whose tokens are the same for all arms
    metric: float | None  # at the end of the run. None: not there yet, or it failed
    evaluations: tuple[Evaluation, ...]  # in sequence, those of a longer run included
    dispersion: float | None  # how unlike each other its updates are in length: see `PlanStats`
    peak_bytes: int | None  # memory of its largest batch. None: unknown
    failed_after: int | None = None  # the update whose loss was NaN or infinite


class Race:
    """A run of one seed, of all arms.

    Guarantees that arms take turns so that none is ever more than an update ahead of another, in
    shares of the run; that the sequence of turns changes from round to round; and that the state
    alone determines what is left. `modes` has the precisions that were measured earlier, by name of
    the strategy. Where lengths differ, the dense limit takes part, too. With `processes` each arm
    has a process of its own, and the race is to be closed: it is a context manager.
    """

    def __init__(
        self,
        task: Task,
        strategies: Sequence[Strategy],
        *,
        seed: int,
        settings: Settings,
        modes: dict[str, str] | None = None,
        dense: bool = True,
        processes: bool = False,
    ) -> None:
        self.task, self.seed, self.settings = task, seed, settings
        self._num_strategies = len(strategies)
        entries = [(each, False) for each in strategies]
        pads = [each for each in strategies if each.kind != "packed"]
        if dense and pads and (task.sizes != task.sizes[0]).any():
            best = next((each for each in pads if each.kind == "planned"), pads[-1])
            entries.append((replace(best, order="shuffle", precision="fp32"), True))
        self._processes: Sequence[ArmProcess] = []
        self.arms: Sequence[RaceArm]
        if processes:
            self.arms = self._processes = arm_process.started(task, entries, seed=seed)
        else:
            self.arms = [Arm(task, each, seed=seed, dense=limit) for each, limit in entries]
        try:
            for arm in self.arms:
                arm.choose_precision((modes or {}).get(arm.name))
        except BaseException:
            self.close(at_once=True)
            raise

    def __enter__(self) -> Self:
        """Return the race."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """End the processes of its arms, at once after an error."""
        self.close(at_once=error is not None)

    def close(self, *, at_once: bool = False) -> None:
        """End the processes of its arms."""
        arm_process.close_all(self._processes, at_once=at_once)

    def turns(self) -> Iterator[RaceArm]:
        """Train; yield each arm after its turn, so that the caller can look, save or stop."""
        first, *others = self.arms
        # What a process does only once, before any arm is timed. It trains on the largest batches.
        for arm in self.arms if self.settings.peaks else ():
            peak = arm.peak()
            arm.peak_bytes = peak if arm.peak_bytes is None else arm.peak_bytes
        if not first.evaluations:
            first.evaluate()
            for arm in others:  # the same weights
                if self._processes and not arm.dense:
                    arm.evaluate()
                else:
                    begun = replace(first.evaluations[0], seconds=arm.spent.seconds)
                    arm.evaluations.append(begun)
        while waiting := [arm for arm in self.arms if not self._is_done(arm)]:
            yield self._turn(min(waiting, key=self._due))
        while behind := [arm for arm in self.arms if self._is_behind(arm)]:
            yield self._turn(min(behind, key=self._due))

    @property
    def modes(self) -> dict[str, str]:
        """Name of each arm → the precision that it trains in."""
        return {arm.name: arm.mode for arm in self.arms}

    def share_done(self) -> float:
        """Return the share of the training time that is over, not counting longer runs."""
        done = left = 0.0
        for arm in self.arms:
            done += arm.spent.seconds
            if arm.spent.updates and not self._is_done(arm):
                left += arm.spent.seconds * (1 / self._progress(arm) - 1)
        return done / (done + left) if done else 0.0

    def outcomes(self) -> list[Outcome]:
        """Return the result of each arm up to now."""
        return [
            Outcome(
                name=arm.name,
                precision=arm.mode,
                spent=replace(arm.ended or arm.spent),
                metric=None if arm.has_failed else self._metric(arm),
                evaluations=tuple(arm.evaluations),
                dispersion=arm.dispersion,
                peak_bytes=arm.peak_bytes,
                failed_after=arm.spent.updates if arm.has_failed else None,
            )
            for arm in self.arms
        ]

    def audits(self) -> dict[str, Facts]:
        """Audit the arms that trained in half precision, on a few more updates: name → facts.

        It changes the arms: call it after `outcomes`.
        """
        seen = {arm.name: arm.audit() for arm in self.arms if not arm.dense}
        return {name: facts for name, facts in seen.items() if facts is not None}

    def state_dict(self) -> State | None:
        """Return everything needed to resume: tensors, numbers, and lists and dicts of them.

        None: an arm holds what cannot be read again.
        """
        states = {arm.name: arm.state_dict() for arm in self.arms}
        return None if None in states.values() else states

    def load_state_dict(self, state: State) -> None:
        """Resume from the state of a race of the same arms and seed."""
        for arm in self.arms:
            arm.load_state_dict(state[arm.name])

    def _turn(self, arm: RaceArm) -> RaceArm:
        arm.update()
        if arm.has_failed or arm.dense:
            return arm
        if self._is_due(arm):
            arm.evaluate()
        while self._is_due(arm):  # one update may reach the places of several evaluations
            arm.evaluations.append(arm.evaluations[-1])
        if arm.progress >= 1 and arm.ended is None:
            arm.ended = replace(arm.spent)
        return arm

    def _is_due(self, arm: RaceArm) -> bool:
        """Return whether an arm has reached the place of its next evaluation."""
        done, every = len(arm.evaluations), self.settings.evaluations
        # After the end of the run twice as often: the moment of the target is looked for.
        share = done / every if done <= every else 1 + (done - every) / (2 * every)
        return arm.progress >= share - 1e-9

    def _due(self, arm: RaceArm) -> tuple[float, int]:
        """Sort arms by their progress; arms of equal progress in another sequence each round."""
        turn = (self.arms.index(arm) - arm.spent.updates) % self._num_strategies
        return self._progress(arm), turn

    def _is_done(self, arm: RaceArm) -> bool:
        return arm.has_failed or self._progress(arm) >= 1

    def _progress(self, arm: RaceArm) -> float:
        """Return the share that is done of what an arm has to train."""
        return arm.progress / DENSE_SHARE if arm.dense else arm.progress

    def _is_behind(self, arm: RaceArm) -> bool:
        first, sign, wanted = self.arms[0], self.task.sign, self.settings.target
        if arm.dense or arm.has_failed or arm.progress >= 1 + self.settings.longer:
            return False
        seen = [] if first.has_failed else first.evaluations
        tokens = [(each.ended or each.spent).tokens for each in (first, arm)]
        target = target_of(seen, tokens=tokens[0], sign=sign, wanted=wanted)
        if target is None:
            return False
        return arrival(arm.evaluations, target, tokens=tokens[1], sign=sign) is None

    def _metric(self, arm: RaceArm) -> float | None:
        every = self.settings.evaluations
        return None if len(arm.evaluations) <= every else arm.evaluations[every].metric
