"""Races: fair turns, equal beginnings, exact resumption."""

import math
import random

import numpy as np
import pytest
import torch

from batchwright.compare import Settings, Strategy, compare, summarize
from batchwright.compare.arm import Arm
from batchwright.compare.arm_server import loaded, saved
from batchwright.compare.race import DENSE_SHARE, Race
from batchwright.compare.strategy import DENSE
from batchwright.errors import TaskError
from tests.compare.conftest import Counter, loss_sum, make_task

NAMES = ("plain", "grouped", "planned", "planned+curriculum")


def race(task, names=NAMES, *, seed=0, **settings):
    settings = Settings(**{"evaluations": 4, "peaks": False} | settings)
    return Race(task, [Strategy.named(name) for name in names], seed=seed, settings=settings)


def test_arms_begin_alike_and_have_the_same_tokens(task):
    run = race(task)
    first = [next(arm.model.parameters()).clone() for arm in run.arms]
    assert all(torch.equal(first[0], each) for each in first)
    for _ in run.turns():
        pass
    for outcome in run.outcomes():
        if outcome.name != DENSE:
            assert outcome.spent.tokens == pytest.approx(task.num_tokens, rel=0.06)
            assert len(outcome.evaluations) >= 5
            assert outcome.metric == outcome.evaluations[4].metric
    shuffled = [each for each in run.outcomes() if each.name in NAMES[:3]]
    assert {each.spent.tokens for each in shuffled} == {task.num_tokens}
    assert {each.spent.updates for each in shuffled} == {16}


def test_a_run_of_fewer_updates_than_evaluations_has_a_metric(task):
    run = race(task, ("plain", "planned"), evaluations=40)
    for _ in run.turns():
        pass
    for outcome in run.outcomes():
        if outcome.name != DENSE:
            assert outcome.metric == outcome.evaluations[40].metric
            assert outcome.metric < outcome.evaluations[0].metric


def test_no_arm_is_more_than_an_update_ahead(task):
    run = race(task, longer=0.0)
    for _ in run.turns():
        shares = [arm.progress / (DENSE_SHARE if arm.dense else 1) for arm in run.arms]
        # The dense limit's updates count three times.
        assert max(shares) - min(shares) <= 3 / 16 + 1e-9


def test_turns_change_their_sequence(task):
    task = make_task(lengths=None)  # no dense limit
    names = [arm.name for arm in race(task, ("plain", "planned"), longer=0.0).turns()]
    firsts = names[::2]
    assert len(names) == 2 * len(firsts)
    assert abs(firsts.count("plain") - firsts.count("planned")) <= 1
    with_limit = race(make_task(), ("plain", "planned"), longer=0.0)
    firsts = [each[0] for each in beginnings(with_limit)]
    assert abs(firsts.count("plain") - firsts.count("planned")) <= 0.2 * len(firsts)


def beginnings(run):
    """Name the two strategies in the sequence in which they made each update."""
    made = {}
    for arm in run.turns():
        if not arm.dense:
            made.setdefault(arm.spent.updates, []).append(arm.name)
    return list(made.values())


def test_training_and_watching_leave_the_global_generator_alone(task):
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    numpy_before = np.random.get_state()[1].copy()  # noqa: NPY002
    for _ in race(task, peaks=True).turns():
        pass
    assert torch.equal(torch.random.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002


def test_an_arm_learns_the_same_alone_and_among_others(task):
    among = race(task)
    for _ in among.turns():
        pass
    alone = Arm(task, Strategy.named("planned"), seed=0)
    while alone.progress < 1:
        alone.update()
    alone.evaluate()
    assert alone.evaluations[-1].metric == among.outcomes()[2].metric


def test_each_update_is_that_of_the_mean_over_its_labels(task):
    """One update of many batches against the plain mean over all its samples."""
    task = make_task(optimizer=lambda model: torch.optim.SGD(model.parameters(), 1.0), clip=None)
    task = make_task(
        model=NoDropout, optimizer=task.optimizer, clip=None, schedule=lambda share: 1.0
    )
    arm = Arm(task, Strategy.named("planned"), seed=0)
    model = NoDropout()
    model.load_state_dict(arm.model.state_dict())
    plan = arm.planner(0)
    rows = plan.indices[: plan.offsets[arm.planner.accumulate]]
    batch = task.collate([task.samples[row] for row in rows])
    (loss_sum(model, batch) / len(rows)).backward()
    arm.update()
    for mine, reference in zip(arm.model.parameters(), model.parameters(), strict=True):
        assert torch.allclose(mine, reference - reference.grad, atol=1e-6)


class NoDropout(Counter):
    def __init__(self):
        super().__init__()
        self.decide = self.decide[1]


@pytest.mark.parametrize("turns", [1, 20, 50, 70])
def test_a_race_goes_on_where_it_was(task, turns, tmp_path):
    whole = race(task)
    for _ in whole.turns():
        pass
    begun = race(task)
    for _, _ in zip(range(turns), begun.turns(), strict=False):
        pass
    torch.save(begun.state_dict(), tmp_path / "state")
    resumed = race(task)
    resumed.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    for _ in resumed.turns():
        pass
    for one, other in zip(whole.outcomes(), resumed.outcomes(), strict=True):
        assert [each.metric for each in one.evaluations] == [
            each.metric for each in other.evaluations
        ]
        assert one.spent.tokens == other.spent.tokens
        assert one.spent.worst_batch == other.spent.worst_batch


def test_an_arm_that_has_not_reached_the_target_trains_longer():
    run = race(make_task(), ("planned", "grouped"), target=-1.0, longer=0.5)
    for _ in run.turns():
        pass
    assert [arm.progress for arm in run.arms if not arm.dense] == [1.5, 1.5]
    # Evaluated more often behind the end.
    assert len(run.arms[0].evaluations) == 5 + 4


FALLS = [8.0, 6.0, 5.0, 4.4, 4.0, 3.8, 3.6, 3.5, 3.4]


@pytest.mark.parametrize(
    ("metrics", "longer"),
    [
        (FALLS, False),
        ([*FALLS[:3], 3.0, *([5.0] * 12)], True),  # one good evaluation is no arrival
        ([*FALLS[:5], 3.0, 3.0, 5.0, 5.0], False),  # reached, if not held
    ],
)
def test_only_an_arm_whose_smoothed_metric_has_not_arrived_trains_longer(metrics, longer):
    made = {}

    def evaluate(model):
        place = [arm.model for arm in run.arms].index(model)
        made[place] = made.get(place, 0) + 1
        return (FALLS, metrics)[place][made[place] - (place == 0)]

    run = race(make_task(evaluate=evaluate), ("plain", "planned"), evaluations=8)
    for _ in run.turns():
        pass
    assert run.arms[0].progress == 1
    assert run.arms[1].progress == (1.25 if longer else 1)


def test_a_loss_that_is_no_number_any_more_ends_that_arm_only():
    class Explodes(NoDropout):
        def forward(self, tokens):
            scores = super().forward(tokens)
            # Only rows that were rounded up to 16 are that long.
            return scores * math.nan if tokens.shape[1] == 48 else scores

    task = make_task(model=Explodes)
    rounded = Strategy("rounded", options={"pad_to_multiple_of": 16})
    run = Race(task, [Strategy.named("plain"), rounded], seed=0, settings=Settings())
    for _ in run.turns():
        pass
    plain, exploded, _ = run.outcomes()
    assert plain.failed_after is None
    assert exploded.failed_after is not None
    assert exploded.metric is None
    summary = summarize([run.outcomes()], task)
    assert (summary[1].failed, summary[1].time) == (1, None)


def test_scores_that_had_to_be_computed_are_charged():
    task = make_task(difficulties={"slow": lambda: np.arange(240.0)})
    arm = Arm(task, Strategy.named("planned+curriculum:slow"), seed=0)
    assert arm.spent.seconds == task.difficulty("slow")[1] > 0
    assert Arm(task, Strategy.named("planned"), seed=0).spent.seconds == 0


def test_memory_is_that_of_the_largest_batch():
    run = race(
        make_task(4_000, max_tokens=400, step_tokens=2_000), ("plain", "planned"), peaks=True
    )
    next(run.turns())
    small = race(
        make_task(4_000, max_tokens=80, step_tokens=2_000), ("plain", "planned"), peaks=True
    )
    next(small.turns())
    for large, less in zip(run.outcomes(), small.outcomes(), strict=True):
        assert large.peak_bytes > less.peak_bytes > 0


def test_the_precision_that_was_measured_is_kept_for_further_seeds(task):
    result = compare(
        task, ["plain", "planned+auto"], seeds=(0, 1), settings=Settings(evaluations=2)
    )
    modes = {run[1].precision for run in result.runs}
    assert modes == {result.modes["planned+auto"]}
    assert modes <= {"fp32", "bf16"}


def test_more_seeds_go_on_from_fewer(task):
    settings = Settings(evaluations=2, peaks=False)
    first = compare(task, ["plain", "planned"], seeds=(0,), settings=settings)
    kept = first.runs[0]
    first.seeds = (0, 1)
    more = compare(task, ["plain", "planned"], settings=settings, resume=first)
    assert more.runs[0] is kept
    assert more.is_complete
    assert more.runs[1][0].metric != kept[0].metric


def drawing():
    """Make a task that draws from every global generator, when it trains and when it evaluates."""
    given = make_task()

    def drawn():
        return random.random() + np.random.random() + float(torch.rand(()))  # noqa: NPY002, S311

    def loss(model, batch):
        return loss_sum(model, batch) * drawn()

    return make_task(loss_sum=loss, evaluate=lambda model: given.evaluate(model) * drawn())


def test_an_arm_draws_the_same_beside_others_alone_and_resumed(tmp_path):
    """From Python's and NumPy's generators, too, which are as they were afterwards."""
    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    beside, alone = race(drawing()), race(drawing(), ("planned",))
    for _ in beside.turns():
        pass
    for _, _ in zip(range(5), alone.turns(), strict=False):
        pass
    torch.save(alone.state_dict(), tmp_path / "state")
    resumed = race(drawing(), ("planned",))
    resumed.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    for _ in resumed.turns():
        pass
    found, expected = resumed.arms[0].evaluations, beside.arms[2].evaluations
    assert [each.metric for each in found[:5]] == [each.metric for each in expected[:5]]
    assert before == (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002


@pytest.mark.parametrize("names", [[], ["plain", "planned", "plain"]])
def test_strategies_have_names_of_their_own(task, names):
    with pytest.raises(TaskError, match="expected one at least, each with its own name"):
        compare(task, names)


class Remembers(Counter):
    def get_extra_state(self):
        return {"seen": np.float64(3)}

    def set_extra_state(self, state):
        pass


@pytest.mark.parametrize(
    ("changes", "can"),
    [
        ({"optimizer": lambda model: torch.optim.SGD(model.parameters(), np.float64(0.01))}, True),
        ({"model": Remembers}, False),
    ],
)
def test_states_hold_what_can_be_read_again(changes, can):
    """Numbers of NumPy become Python's; where there is more, the run begins again."""
    run = race(make_task(**changes), ("plain",))
    next(run.turns())
    state = loaded(saved(run.state_dict()))
    assert (state is not None) == can
    if can:
        assert state["plain"]["optimizer"]["param_groups"][0]["lr"] < 0.01
