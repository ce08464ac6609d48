"""A run that goes on with another planner: what was not seen, in batches of the new budget."""

import numpy as np
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

import batchwright as bw
from batchwright.torch import PlanBatchSampler
from tests.torch.planners import dealt_back, log_normal, many_lengths, rank_samplers, through_json
from tests.torch.test_resume import left

BATCHINGS = (
    bw.TokenBudget(64),
    bw.TokenBudget(48, pad_to_multiple_of=4, max_samples=3),
    bw.TokenBudget(40, mixing="update"),
    bw.TokenBudget(18, oversize="truncate"),
    bw.TokenBudget(14, oversize="drop"),
    bw.Packing(60),
    bw.Packing(36, align=4),
    bw.Packing(16, oversize="split"),
    bw.Packing(8, oversize="split"),
    bw.FixedSize(6),
    bw.FixedSize(1),
    bw.Buckets(3, max_tokens=64),
)
SPLITTING = tuple(bw.Packing(each, oversize="split") for each in (40, 16, 12, 8, 6))


def jobs(of):
    return st.tuples(
        st.sampled_from(of),
        st.integers(1, 4),
        st.integers(1, 2),
        st.floats(0, 1) | st.sampled_from((0.5, 0.9, 0.98, 1.0)),
        st.sampled_from((None, None, 60)),
    )


def fits(batch, batching, lengths) -> bool:
    """Say whether what a loader asks for keeps a batching's budget, by its own words."""
    limit = batching.layout.longest_row
    sizes = []
    for entry in batch:
        sample, start, stop = entry if isinstance(entry, tuple) else (entry, 0, None)
        size = int(lengths[sample]) if stop is None else min(stop, int(lengths[sample])) - start
        sizes.append(min(size, limit) if batching.oversize == "truncate" else size)
    if isinstance(batching, bw.FixedSize):
        return len(sizes) <= batching.batch_size
    if isinstance(batching, bw.Packing):
        return (
            sum(-(-size // batching.align) * batching.align for size in sizes) <= batching.capacity
        )
    rows, multiple = len(sizes), batching.pad_to_multiple_of
    longest = -(-max(sizes) // multiple) * multiple
    return rows * longest <= batching.max_tokens and rows <= (batching.max_samples or rows)


def intervals(batch, lengths) -> list[tuple[int, int, int]]:
    """List what of which sample a loader asks for."""
    asked = []
    for entry in batch:
        sample, start, stop = entry if isinstance(entry, tuple) else (entry, 0, None)
        size = int(lengths[sample])
        asked.append((sample, start, size if stop is None else min(stop, size)))
    return asked


def merged(asked: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Join pieces that follow one another."""
    whole = []
    for sample, start, stop in sorted(asked):
        if whole and whole[-1][0] == sample and whole[-1][2] == start:
            whole[-1] = (sample, whole[-1][1], stop)
        else:
            whole.append((sample, start, stop))
    return whole


class Run:
    """An epoch as a chain of jobs goes through it."""

    def __init__(self, lengths, epoch):
        self.lengths, self.epoch = lengths, epoch
        self.asked: list[tuple[int, int, int]] = []
        self.sequence: list[int] = []
        self.dropped: set[int] = set()
        self.state = None
        self.is_over = False

    def go_on(self, batching, world_size, accumulate, part, step_tokens):
        """Run one job, on a part of what is left; nothing changes where it cannot begin."""
        size = {"step_tokens": step_tokens} if step_tokens else {"accumulate": accumulate}
        try:
            planner = bw.Planner(
                self.lengths, batching=batching, seed=5, world_size=world_size, **size
            )
            samplers = self.samplers_of(planner, world_size)
            count = round(part * left_of(samplers[0], self.state))
        except (UserWarning, bw.errors.BudgetError, bw.errors.PlanError) as error:
            wanted = ("come twice", "no equal parts", "is smaller than", "cannot fill", "is too")
            assert any(each in str(error) for each in wanted), error
            return
        if not self.asked:  # whoever begins the epoch decides its sequence
            self.sequence = [int(sample) for sample in samplers[0].plan.indices]
        iterators = [iter(sampler) for sampler in samplers]
        per_rank = [[next(each) for _ in range(count)] for each in iterators]
        if count:
            self.dropped |= set(samplers[0].course.plan.dropped.get("oversize", ()))
        for batch in [batch for each in zip(*per_rank, strict=True) for batch in each]:
            assert fits(batch, batching, self.lengths)
            self.asked += intervals(batch, self.lengths)
        states = [through_json(each.state_dict()) for each in iterators]
        assert all(each == states[0] for each in states)
        self.state = states[0]
        self.is_over = bool(self.asked) and not left(self.samplers_of(planner, 1)[0])

    def samplers_of(self, planner, world_size):
        samplers = rank_samplers(planner, world_size)
        for sampler in samplers:
            sampler.set_epoch(self.epoch)
            if self.state is not None:
                sampler.load_state_dict(self.state)
        return samplers

    def check(self):
        """Hold what was asked for against the plan that the epoch began with."""
        kept = [each for each in merged(self.asked) if each[0] not in self.dropped]
        expected = [(s, 0, int(n)) for s, n in enumerate(self.lengths) if s not in self.dropped]
        assert kept == expected
        firsts = dict.fromkeys(s for s, _, _ in self.asked if s not in self.dropped)
        assert list(firsts) == list(
            dict.fromkeys(s for s in self.sequence if s not in self.dropped)
        )


def check_chain(lengths, chain, epoch):
    run = Run(np.array([*lengths, *[1] * 8]), epoch)
    for job in [*chain, (*chain[0][:3], 1.0, None)]:
        run.go_on(*job)
        if run.is_over:
            run.check()
            event("the epoch came to its end")
            return


@pytest.mark.slow
@given(
    lengths=many_lengths,
    chain=st.lists(jobs(BATCHINGS), min_size=2, max_size=4),
    epoch=st.integers(0, 2),
)
def test_a_chain_of_budgets_sees_an_epoch_exactly_once(lengths, chain, epoch):
    check_chain(lengths, chain, epoch)


@pytest.mark.slow
@given(
    lengths=many_lengths,
    chain=st.lists(jobs(SPLITTING), min_size=2, max_size=4),
    epoch=st.integers(0, 2),
)
def test_a_chain_of_capacities_sees_every_piece_exactly_once(lengths, chain, epoch):
    check_chain(lengths, chain, epoch)


def left_of(sampler, state) -> int:
    return left(sampler) if state is not None else len(sampler)


def test_a_smaller_budget_is_kept_by_all_that_is_left():
    lengths = np.array([3 + i * 7 % 90 for i in range(500)])
    before = PlanBatchSampler(bw.Planner(lengths, batching=bw.TokenBudget(400)))
    seen = [next(live) for live in [iter(before)] for _ in range(10)]
    smaller = PlanBatchSampler(bw.Planner(lengths, batching=bw.TokenBudget(300)))
    smaller.load_state_dict(before.state_after(10))
    rest = list(smaller)
    assert max(len(batch) * lengths[batch].max() for batch in rest) <= 300
    assert dealt_back([seen + rest]) == before.plan.indices.tolist()
    assert smaller.epoch == 0
    smaller.set_epoch(1)
    assert list(smaller) == [batch.tolist() for batch in smaller.plan]
    assert smaller.plan == bw.Planner(lengths, batching=bw.TokenBudget(300))(1)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (bw.Packing(400), bw.Packing(400, max_samples=3)),
        (bw.TokenBudget(400), bw.TokenBudget(400, max_samples=3)),
    ],
    ids=["packed", "padded"],
)
def test_fewer_samples_in_a_batch_are_kept_by_all_that_is_left(before, after):
    lengths = np.array([3 + i * 7 % 90 for i in range(200)])
    began = bw.Planner(lengths, batching=before)
    sampler = PlanBatchSampler(bw.Planner(lengths, batching=after))
    sampler.load_state_dict(PlanBatchSampler(began).state_after(5))
    rest = list(sampler)
    assert [i for batch in rest for i in batch] == began(0)[5:].indices.tolist()
    assert max(map(len, rest)) == 3


def test_what_need_not_be_smaller_stays_as_it_was():
    planner = bw.Planner(log_normal(300), batching=bw.TokenBudget(100))
    state = PlanBatchSampler(planner).state_after(4)
    larger = PlanBatchSampler(bw.Planner(log_normal(300), batching=bw.TokenBudget(200)))
    larger.load_state_dict(state)
    assert list(larger) == [batch.tolist() for batch in planner(0)[4:]]


def test_what_is_too_large_is_halved():
    lengths = [5] * 16
    state = PlanBatchSampler(bw.Planner(lengths, max_tokens=40)).state_after(1)
    smaller = PlanBatchSampler(bw.Planner(lengths, max_tokens=20))
    smaller.load_state_dict(state)
    assert [len(batch) for batch in smaller] == [4, 4]


def test_another_seed_or_order_wants_the_planner_it_began_with():
    began = bw.Planner(log_normal(300), batching=bw.TokenBudget(100))
    state = PlanBatchSampler(began).state_after(4)
    for changes in ({"seed": 1}, {"order": bw.Sequential()}):
        goes_on = bw.Planner(log_normal(300), batching=bw.TokenBudget(70), **changes)
        sampler = PlanBatchSampler(goes_on)
        with pytest.raises(bw.errors.PlanError, match=r"planned_by=Planner"):
            sampler.load_state_dict(state)
        sampler.load_state_dict(state, planned_by=began)
        live = iter(sampler)
        rest = [next(live) for _ in range(3)]
        again = live.state_dict()
        rest += live
        assert [i for batch in rest for i in batch] == began(0)[4:].indices.tolist()
        # The state still is of what the epoch began with.
        third = PlanBatchSampler(goes_on)
        third.load_state_dict(again, planned_by=began)
        assert list(third) == rest[3:]
        third = PlanBatchSampler(began)
        third.load_state_dict(again)
        assert [i for batch in third for i in batch] == [i for batch in rest[3:] for i in batch]


def test_each_job_shares_the_rest_by_its_own_policy():
    planners = {
        last: bw.Planner([4] * 23, batching=bw.FixedSize(1), last=last)
        for last in ("short", "drop", "repeat")
    }
    sequence = planners["short"](0).indices.tolist()
    state = PlanBatchSampler(planners["short"]).state_after(12)  # 11 are left
    repeating = PlanBatchSampler(planners["repeat"], rank=0, world_size=4)
    repeating.load_state_dict(state)
    assert len(list(repeating)) == 3
    repeating.load_state_dict(state)
    live = iter(repeating)
    next(live)
    state = through_json(live.state_dict())  # 7 are left, and one comes twice
    dropping = rank_samplers(planners["drop"], 3)
    for sampler in dropping:
        sampler.load_state_dict(state)
    per_rank = [list(sampler) for sampler in dropping]
    assert dealt_back(per_rank) == sequence[16:22]
    assert dropping[0].course.plan.dropped["last"].tolist() == [sequence[22], sequence[12]]


def test_a_plan_has_no_lengths_to_keep_another_budget_by():
    lengths = log_normal(300)
    state = PlanBatchSampler(bw.plan(lengths, max_tokens=200)).state_after(4)
    smaller = PlanBatchSampler(bw.plan(lengths, max_tokens=100))
    with pytest.raises(bw.errors.PlanError, match="planned_by"):
        smaller.load_state_dict(state)
    with pytest.raises(bw.errors.PlanError, match="sampler of a Planner"):
        smaller.load_state_dict(state, planned_by=bw.plan(lengths, max_tokens=200))
    planner = bw.Planner(lengths, batching=bw.TokenBudget(100))
    sampler = PlanBatchSampler(planner)
    sampler.load_state_dict(state, planned_by=bw.plan(lengths, max_tokens=200))
    rest = list(sampler)
    assert max(len(batch) * lengths[batch].max() for batch in rest) <= 100


def test_pieces_are_cut_to_equal_parts_or_refused():
    lengths = [100, 30, 7, 64]
    began = bw.Planner(lengths, batching=bw.Packing(32, oversize="split"))
    state = PlanBatchSampler(began).state_after(2)
    half = PlanBatchSampler(bw.Planner(lengths, batching=bw.Packing(20, oversize="split")))
    half.load_state_dict(state)
    assert {piece.stop - piece.start for batch in half for piece in batch} == {16}
    odd = bw.Planner(lengths, batching=bw.Packing(31, oversize="split"))
    state = PlanBatchSampler(odd).state_after(2)
    with pytest.raises(bw.errors.BudgetError, match="no equal parts of those fit into 20"):
        half.load_state_dict(state)


def test_a_budget_of_each_column_is_kept():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 30, (200, 2))
    began = bw.Planner(lengths, batching=bw.TokenBudget((120, 160)))
    state = PlanBatchSampler(began).state_after(3)
    sampler = PlanBatchSampler(bw.Planner(lengths, batching=bw.TokenBudget((60, 90))))
    sampler.load_state_dict(state)
    rest = list(sampler)
    assert [i for batch in rest for i in batch] == began(0)[3:].indices.tolist()
    for batch in rest:
        assert (len(batch) * lengths[batch].max(axis=0) <= (60, 90)).all()
