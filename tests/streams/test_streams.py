"""What a stream guarantees, whatever the samples, the batching, the buffer and the ranks."""

import itertools
import pickle
import warnings
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import batchwright as bw
from batchwright.batching.custom import as_batching
from batchwright.streams import batch_stream, stream
from batchwright.streams.window import plan_window
from tests.streams.passes import (
    LONGEST,
    SOURCES,
    batches_of,
    expected_items,
    in_threes,
    items_of,
    number_of,
    of_all_ranks,
    sample,
    settings_of_streams,
    size_of,
    through_json,
    within_budget,
)


@settings(max_examples=80)
@given(settings_of_streams())
def test_nothing_is_lost_nothing_comes_twice(options):
    batches, twice = of_all_ranks(options)
    came, due = items_of(batches), expected_items(options["samples"], options["batching"])
    lacking, extra = due - came, came - due
    world_size, last = options["world_size"], options["last"]
    update = world_size * options["accumulate"]
    assert len(batches) % (world_size if last == "short" else update) == 0
    assert lacking.total() < (update if last == "drop" else 1)
    assert extra.total() == twice if last != "repeat" else extra.total() < update
    assert twice < world_size
    if lacking or extra or len(batches) % update:  # only where too few are left to fill an update
        whole = len(batches) // update * update - update
        left = [len(batch) for batch in batches[max(whole, 0) :]]
        assert not left or sum(left) < -(-len(left) // update) * update or set(left) == {1}


@pytest.mark.parametrize("last", ["short", "drop", "repeat"])
@pytest.mark.parametrize("size", [1, 4, 41, 64])
def test_remainders_follow_the_policy(size, last):
    options = {
        "samples": [sample(number, 5) for number in range(size)],
        "batching": bw.FixedSize(1),
        "buffer_size": 16,
        "world_size": 4,
        "accumulate": 2,
        "last": last,
    }
    batches, twice = of_all_ranks(options)
    numbers = [number_of(tokens) for batch in batches for tokens in batch]
    one = batches_of(options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        list(one)
    if last == "drop":
        assert len(batches) == size // 8 * 8
        assert sorted(numbers + one.dropped) == list(range(size))
    else:
        assert set(numbers) == set(range(size))
        assert not one.dropped
        assert len(batches) == (
            -(-size // 4) * 4 if last == "short" and size % 8 else -(-size // 8) * 8
        )
    assert twice == (-size % 4 if last == "short" else 0)


@settings(max_examples=50)
@given(settings_of_streams())
def test_no_batch_exceeds_its_budget_or_is_empty(options):
    layout = as_batching(options["batching"]).layout
    for batch in of_all_ranks(options)[0]:
        assert batch
        assert within_budget([size_of(each) for each in batch], layout)


@settings(max_examples=50)
@given(settings_of_streams(roomy=True, min_samples=20))
def test_every_rank_gets_the_same_number_in_whole_updates(options):
    batches, twice = of_all_ranks(options)
    assert not twice
    assert len(batches) % (options["world_size"] * options["accumulate"]) == 0


@settings(max_examples=50)
@given(settings_of_streams(), st.sampled_from(sorted(SOURCES)))
def test_the_kind_of_source_makes_no_difference(options, source):
    assert of_all_ranks(options, source=source) == of_all_ranks(options)


@settings(max_examples=50)
@given(settings_of_streams(roomy=True, min_samples=30), st.integers(2, 3))
def test_the_parts_are_the_whole(options, count):
    parts = [of_all_ranks(options, part=(index, count)) for index in range(count)]
    assert not any(twice for _, twice in parts)
    batches = [batch for part, _ in parts for batch in part]
    assert items_of(batches) == expected_items(options["samples"], options["batching"])
    for index, (part, _) in enumerate(parts):
        assert all(number_of(tokens) % count == index for batch in part for tokens in batch)


@settings(max_examples=50)
@given(settings_of_streams(), st.sampled_from(sorted(SOURCES)), st.integers(1, 2))
def test_resumed_anywhere_the_identical_rest_follows(options, source, count):
    rank = options["world_size"] - 1
    others = {"rank": rank, "part": (count - 1, count)}

    def until_the_end(batches):
        rest, states = [], [through_json(batches.state_dict())]
        try:
            for batch in batches:
                rest.append(batch)
                states.append(through_json(batches.state_dict()))
        except (UserWarning, bw.errors.BudgetError, bw.errors.SourceError) as error:
            rest.append(type(error).__name__)
        return rest, states

    everything, states = until_the_end(batches_of(options, **others))
    for consumed, state in enumerate(states):
        resumed = batches_of(options, source=source, **others)
        resumed.load_state_dict(state)
        assert resumed.state_dict() == state
        if source == "sequence" and consumed % 3 == 0:
            resumed = pickle.loads(pickle.dumps(resumed))  # noqa: S301
        rest, later = until_the_end(resumed)
        assert rest == everything[consumed:]
        assert later == states[consumed:]


@settings(max_examples=50)
@given(settings_of_streams(roomy=True, min_samples=40), st.integers(1, 3), st.data())
def test_other_ranks_get_exactly_what_was_not_emitted(options, world_size, data):
    options["buffer_size"] += 24  # enough for all of these worlds
    ranks = [batches_of(options, rank=rank) for rank in range(options["world_size"])]
    rounds = data.draw(st.integers(0, 5))
    before = [batch for rank in ranks for batch in itertools.islice(rank, rounds)]
    state = through_json(ranks[0].state_dict())
    assert all(rank.state_dict() == state for rank in ranks)
    per_rank = []
    for rank in range(world_size):
        resumed = batches_of(options | {"world_size": world_size}, rank=rank)
        resumed.load_state_dict(state)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            per_rank.append(list(resumed))
    assert len(set(map(len, per_rank))) == 1
    after = [batch for batches in per_rank for batch in batches]
    came = items_of(before) + items_of(after)
    due = expected_items(options["samples"], options["batching"])
    update = world_size * options["accumulate"]
    assert (due - came).total() < (update if options["last"] == "drop" else 1)
    assert (came - due).total() < (update if said or options["last"] == "repeat" else 1)


def test_epochs_and_seeds_differ_and_repeat():
    options = {
        "samples": [sample(i, 1 + i % LONGEST) for i in range(300)],
        "batching": bw.TokenBudget(48),
        "buffer_size": 50,
    }
    passes = [
        list(batches_of(options, seed=seed, epoch=epoch)) for seed in (0, 1) for epoch in (0, 1)
    ]
    assert all(a != b for a, b in itertools.combinations(passes, 2))
    assert passes[3] == list(batches_of(options, seed=1, epoch=1))


def test_no_more_than_the_buffer_is_held():
    alive = []

    class Sample(list):
        def __init__(self, number):
            super().__init__([number] * (1 + number % LONGEST))
            alive.append(number)

        def __del__(self):
            alive.remove(self[0])

    most = 0
    read = (Sample(number) for number in range(2_000))
    for batch in stream(read, batching=bw.TokenBudget(48), buffer_size=100):
        del batch
        most = max(most, len(alive))
    assert most <= 100


def test_reading_keeps_pace_with_what_is_emitted():
    """No batch but the first has to wait for half a buffer of samples."""
    read = 0

    def samples(start):
        nonlocal read
        for number in range(start, 20_000):
            read += 1
            yield number

    batches = stream(
        samples,
        length=lambda number: 1 + number % 50,
        batching=bw.TokenBudget(200),
        buffer_size=1000,
    )
    next(batches)
    assert read == 1000
    waits = [read for _ in batches]
    assert np.diff(waits).max() <= 200  # samples in the largest batch


def test_the_shortest_do_not_wait_for_the_end():
    """They are always in the batch that took what was left over, which is emitted last."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(20, 60, 20_000)
    lengths[::1000] = 1  # twenty of them, far apart
    size = 200
    read = 0

    def measured(number):
        nonlocal read
        read = max(read, number)
        return int(lengths[number])

    batches = stream(
        range(lengths.size), length=measured, batching=bw.TokenBudget(600), buffer_size=size
    )
    late = max(read - number for batch in batches for number in batch)
    assert late <= 10 * size


def test_a_function_is_asked_for_nothing_but_the_buffers_past():
    starts = []
    lengths = np.random.default_rng(0).integers(1, 60, 20_000)

    def samples(start):
        starts.append(start)
        return iter(range(start, lengths.size))

    def make():
        return stream(
            samples, length=lambda i: int(lengths[i]), batching=bw.TokenBudget(600), buffer_size=200
        )

    batches = make()
    for _ in range(700):
        next(batches)
    state = batches.state_dict()
    resumed = make()
    resumed.load_state_dict(state)
    assert next(resumed) == next(batches)
    assert starts[0] == 0
    assert state["read"] - 10 * 200 <= starts[1] < state["read"]


def test_a_state_is_a_few_kilobytes():
    lengths = np.clip(np.random.default_rng(0).lognormal(5.5, 0.9, 60_000), 1, 2048).astype(int)
    batches = stream(
        range(lengths.size), length=lambda i: int(lengths[i]), batching=bw.TokenBudget(16_384)
    )
    for _ in range(700):
        next(batches)
    assert len(through_json(batches.state_dict())["held"]) < 8000


def test_a_stream_is_checked_when_made():
    for change, sentence in (
        ({"buffer_size": 0}, "buffer_size=0"),
        ({"buffer_size": 3, "world_size": 2}, "expected 4 or more"),
        ({"buffer_size": 16, "batching": bw.FixedSize(16)}, "expected 17 or more"),
        ({"world_size": 0}, "world_size=0"),
        ({"batching": 7}, "batching=7"),
    ):
        with pytest.raises(bw.errors.BudgetError, match=sentence):
            stream([[1]], **({"batching": bw.TokenBudget(8)} | change))
    for change in ({"rank": 1}, {"part": (2, 2)}, {"seed": -1}, {"epoch": 0.5}):
        with pytest.raises(bw.errors.PlanError):
            stream([[1]], batching=bw.TokenBudget(8), **change)
    with pytest.raises(bw.errors.SourceError, match="int"):
        stream(3, batching=bw.TokenBudget(8))


def test_the_edges_that_a_sample_exceeds_are_named():
    batching = bw.Buckets(edges=[2, 4], max_tokens=20)
    with pytest.raises(bw.errors.BudgetError, match=r"^edges=\[2, 4\] is smaller than sample 1 of"):
        list(stream([[1], [1] * 9], batching=batching))


def test_functions_are_batchings():
    samples = [sample(i, 1 + i % 5) for i in range(100)]
    batches = list(stream(samples, batching=in_threes, buffer_size=20))
    assert items_of(batches) == expected_items(samples, None)
    assert all(len(batch) <= 3 for batch in batches)


@pytest.mark.parametrize(
    ("world", "max_tokens", "buffer_size"), [((4, 1), 10, 9), ((2, 2), 15, 14)], ids=str
)
def test_enough_is_left_for_every_rank_to_end_with(world, max_tokens, buffer_size):
    """A buffer hardly larger than an update: what stays can be shared by all, whenever it ends."""
    for count in range(4, 41):
        samples = [sample(i, 5) for i in range(count)]
        options = {"samples": samples, "world_size": world[0], "accumulate": world[1]}
        options |= {"batching": bw.TokenBudget(max_tokens), "buffer_size": buffer_size}
        batches, twice = of_all_ranks(options)
        assert not twice, count
        assert len(batches) % 4 == 0, count
        assert items_of(batches) == expected_items(samples, options["batching"]), count


def test_a_sample_of_which_some_pieces_are_gone_is_resumed_piece_by_piece():
    samples = [sample(i, 1 + 5 * i % 37) for i in range(200)]
    options = {
        "samples": samples, "batching": bw.Packing(10, oversize="split"), "buffer_size": 30
    }  # fmt: skip
    batches = batches_of(options)
    everything, partial = list(batches_of(options)), 0
    for consumed in range(len(everything)):
        state = through_json(batches.state_dict())
        partial += state["pieces"] is not None
        resumed = batches_of(options)
        resumed.load_state_dict(state)
        assert list(itertools.islice(resumed, 5)) == everything[consumed : consumed + 5]
        assert next(batches) == everything[consumed]
    assert partial > len(everything) / 4
    assert items_of(everything) == expected_items(samples, options["batching"])


def test_a_sample_that_waited_too_long_is_emitted_first():
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 40, 300)
    options = {"world_size": 2, "accumulate": 2}
    several = ([17, 140, 299], list(range(0, 300, 60)), *([one] for one in range(0, 300, 9)))
    for waiting in several:
        overdue = np.zeros(300, dtype=bool)
        overdue[waiting] = True
        for seed in range(4):
            plan = plan_window(
                lengths,
                bw.TokenBudget(160),
                overdue=overdue,
                draw=lambda purpose, seed=seed: np.random.default_rng([seed, purpose]),
                **options,
            )
            assert set(waiting) <= set(plan.indices.tolist())
            assert len(plan) % 4 == 0


def test_a_random_half_of_the_updates_is_emitted():
    lengths = np.random.default_rng(0).integers(5, 40, 300)
    batches = len(bw.plan(lengths, max_tokens=160))
    emitted = [
        plan_window(
            lengths,
            bw.TokenBudget(160),
            2,
            2,
            overdue=np.zeros(300, dtype=bool),
            draw=lambda purpose, seed=seed: np.random.default_rng([seed, purpose]),
        )
        for seed in range(20)
    ]
    assert all(batches / 2 - 4 <= len(plan) <= batches / 2 for plan in emitted)
    times = np.bincount(np.concatenate([plan.indices for plan in emitted]), minlength=300)
    assert np.count_nonzero(times) > 280  # the shortest are in the batch that stays
    assert times.max() < 20


def test_none_waits_for_more_than_eight_buffers(monkeypatch):
    """With a patience of one buffer instead of eight, so that chance alone would not keep it."""
    monkeypatch.setattr(batch_stream, "_PATIENCE", 1)
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 40, 6_000)
    size, read = 200, 0

    def measured(number):
        nonlocal read
        read = max(read, number)
        return int(lengths[number])

    batches = stream(
        range(lengths.size), length=measured, batching=bw.TokenBudget(160), buffer_size=size
    )
    waits = [read - number for batch in batches for number in batch]
    assert size < max(waits) <= 3 * size


PLAIN = (
    bw.TokenBudget(48),
    bw.TokenBudget(64, pad_to_multiple_of=4, max_samples=3),
    bw.TokenBudget(LONGEST),
    bw.TokenBudget(9, oversize="drop"),
    bw.Packing(50),
    bw.Packing(7, oversize="split"),
    bw.Packing(5, oversize="split"),
    bw.FixedSize(3),
)
COLUMNS = (
    bw.TokenBudget(90),
    bw.TokenBudget((48, 60)),
    bw.TokenBudget((9, LONGEST), oversize="drop", max_samples=2),
    bw.Packing((36, 50)),
    bw.FixedSize(3),
)


@pytest.mark.slow
@settings(max_examples=50)
@given(
    settings_of_streams(min_samples=30),
    st.lists(st.integers(0, 6), min_size=1, max_size=4),
    st.data(),
)
def test_under_other_budgets_exactly_what_was_not_emitted_follows(options, parts, data):
    """A chain of jobs, each with a batching, a buffer and a world of its own."""
    lengths = [size_of(tokens) for tokens in options["samples"]]
    batchings = COLUMNS if isinstance(lengths[0], tuple) else PLAIN
    came, gone, state = [], [], None
    for rounds in [*parts, None]:
        options |= {
            "batching": data.draw(st.sampled_from(batchings)),
            "world_size": data.draw(st.integers(1, 3)),
            "buffer_size": data.draw(st.integers(24, 60)),
            "last": "drop",
        }
        ranks = [batches_of(options, rank=rank) for rank in range(options["world_size"])]
        if state is not None:
            for rank in ranks:
                rank.load_state_dict(state)
        try:
            per_rank = [list(itertools.islice(rank, rounds)) for rank in ranks]
        except (
            bw.errors.BudgetError
        ) as error:  # a sample that no policy of the new budget allows for
            assert "is smaller than sample" in str(error)
            return
        assert len(set(map(len, per_rank))) == 1
        layout = options["batching"].layout
        for batch in [batch for batches in per_rank for batch in batches]:
            assert within_budget([size_of(each) for each in batch], layout)
            came += batch
        gone += ranks[0].dropped
        states = [through_json(rank.state_dict()) for rank in ranks]
        assert all(each == states[0] for each in states)
        state = states[0]
    tokens = Counter()
    for each in came:
        tokens[number_of(each)] += np.array(size_of(each)).sum()
    for number, length in enumerate(lengths):
        whole = np.array(length).sum()
        assert tokens[number] == whole or (number in gone and tokens[number] < whole)


def test_a_smaller_budget_in_the_middle_of_samples_that_are_split():
    samples = [sample(i, 1 + 5 * i % 37) for i in range(200)]
    options = {"samples": samples, "buffer_size": 30}
    first = batches_of(options, batching=bw.Packing(16, oversize="split"))
    came = list(itertools.islice(first, 60))
    state = through_json(first.state_dict())
    assert state["pieces"]
    for batching in (bw.Packing(7, oversize="split"), bw.Packing(37), bw.TokenBudget(40)):
        rest = batches_of(options, batching=batching)
        rest.load_state_dict(state)
        after = list(itertools.islice(rest, 3))
        then = through_json(rest.state_dict())
        last = batches_of(options, batching=bw.Packing(12, oversize="split"))
        last.load_state_dict(then)
        after += last
        tokens = Counter()
        for batch in came + after:
            for each in batch:
                tokens[number_of(each)] += len(each)
        assert [tokens[i] for i in range(200)] == [len(each) for each in samples]


def test_a_batching_of_ones_own_has_to_stay():
    options = {"samples": [sample(i, 1 + i % 9) for i in range(300)], "buffer_size": 50}
    batches = batches_of(options, batching=in_threes)
    came = list(itertools.islice(batches, 20))
    state = batches.state_dict()
    other = batches_of(options, batching=bw.TokenBudget(30))
    other.load_state_dict(state)
    with pytest.raises(bw.errors.PlanError, match="function of yours"):
        next(other)
    same = batches_of(options | {"buffer_size": 70}, batching=in_threes)
    same.load_state_dict(state)
    assert items_of(came + list(same)) == expected_items(options["samples"], None)
