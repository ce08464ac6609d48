"""One seed of a comparison: all arms on the same task, taking turns."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from batchwright._checks import keep_whole
from batchwright.compare.arm import Arm, Evaluation, Spent
from batchwright.compare.arrivals import arrival, target_of
from batchwright.compare.probes import Facts, audited, peak_bytes
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
    the strategy. Where lengths differ, the dense limit takes part, too.
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
    ) -> None:
        self.task, self.seed, self.settings = task, seed, settings
        self.arms = [Arm(task, each, seed=seed) for each in strategies]
        for arm in self.arms:
            arm.choose_precision((modes or {}).get(arm.name))
        pads = [each for each in strategies if each.kind != "packed"]
        if dense and pads and (task.sizes != task.sizes[0]).any():
            best = next((each for each in pads if each.kind == "planned"), pads[-1])
            plain = replace(best, order="shuffle", precision="fp32")
            self.arms.append(Arm(task, plain, seed=seed, dense=True))
        self._num_strategies = len(strategies)

    def turns(self) -> Iterator[Arm]:
        """Train; yield each arm after its turn, so that the caller can look, save or stop."""
        first, *others = self.arms
        if not first.evaluations:
            # What a process does only once, before any arm is timed.
            for arm in self.arms:
                arm.peak_bytes = peak_bytes(arm) if self.settings.peaks else None
            first.evaluate()
            for arm in others:  # the same weights
                arm.evaluations.append(replace(first.evaluations[0], seconds=arm.spent.seconds))
        while waiting := [arm for arm in self.arms if not self._is_done(arm)]:
            yield self._turn(min(waiting, key=self._due))
        while behind := [arm for arm in self.arms if self._is_behind(arm)]:
            yield self._turn(min(behind, key=self._due))

    @property
    def modes(self) -> dict[str, str]:
        """Name of each arm → the precision that it trains in."""
        return {arm.name: str(arm.precision.mode) for arm in self.arms}

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
                precision=str(arm.precision.mode),
                spent=replace(arm.ended or arm.spent),
                metric=None if arm.has_failed else self._metric(arm),
                evaluations=tuple(arm.evaluations),
                dispersion=arm.planner(0).stats(self.task.sizes).dispersion,
                peak_bytes=arm.peak_bytes,
                failed_after=arm.spent.updates if arm.has_failed else None,
            )
            for arm in self.arms
        ]

    def audits(self) -> dict[str, Facts]:
        """Audit the arms that trained in half precision, on a few more updates: name → facts.

        It changes the arms: call it after `outcomes`.
        """
        seen = {arm.name: audited(arm) for arm in self.arms if not arm.dense}
        return {name: facts for name, facts in seen.items() if facts is not None}

    def state_dict(self) -> State:
        """Return everything needed to resume: tensors, numbers, and lists and dicts of them."""
        return {arm.name: arm.state_dict() for arm in self.arms}

    def load_state_dict(self, state: State) -> None:
        """Resume from the state of a race of the same arms and seed."""
        for arm in self.arms:
            arm.load_state_dict(state[arm.name])

    def _turn(self, arm: Arm) -> Arm:
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

    def _is_due(self, arm: Arm) -> bool:
        """Return whether an arm has reached the place of its next evaluation."""
        done, every = len(arm.evaluations), self.settings.evaluations
        # After the end of the run twice as often: the moment of the target is looked for.
        share = done / every if done <= every else 1 + (done - every) / (2 * every)
        return arm.progress >= share - 1e-9

    def _due(self, arm: Arm) -> tuple[float, int]:
        """Sort arms by their progress; arms of equal progress in another sequence each round."""
        # The first to meet a shape also prepares kernels for it, which later arms find.
        turn = (self.arms.index(arm) - arm.spent.updates) % self._num_strategies
        return self._progress(arm), turn

    def _is_done(self, arm: Arm) -> bool:
        return arm.has_failed or self._progress(arm) >= 1

    def _progress(self, arm: Arm) -> float:
        """Return the share that is done of what an arm has to train."""
        return arm.progress / DENSE_SHARE if arm.dense else arm.progress

    def _is_behind(self, arm: Arm) -> bool:
        first, sign, wanted = self.arms[0], self.task.sign, self.settings.target
        if arm.dense or arm.has_failed or arm.progress >= 1 + self.settings.longer:
            return False
        seen = [] if first.has_failed else first.evaluations
        tokens = [(each.ended or each.spent).tokens for each in (first, arm)]
        target = target_of(seen, tokens=tokens[0], sign=sign, wanted=wanted)
        if target is None:
            return False
        return arrival(arm.evaluations, target, tokens=tokens[1], sign=sign) is None

    def _metric(self, arm: Arm) -> float | None:
        every = self.settings.evaluations
        return None if len(arm.evaluations) <= every else arm.evaluations[every].metric
