"""Samples that no stream can be made of, and what is said of them."""

import numpy as np
import pytest

import batchwright as bw
from batchwright._states import sealed
from batchwright.streams import stream
from tests.streams.passes import SOURCES, sample

BUDGET = bw.TokenBudget(20)


BAD_LENGTHS = [0, -3, float("nan"), float("inf"), 2.5, None, "4", [3], 10**30, 2**60, {}]


@pytest.mark.parametrize("place", [0, 177, 350])
def test_a_length_that_is_none_names_its_sample(place):
    for bad in BAD_LENGTHS:
        lengths = [5] * 400
        lengths[place] = bad
        batches = stream(range(400), length=lengths.__getitem__, batching=BUDGET, buffer_size=100)
        with pytest.raises(
            bw.errors.LengthsError, match=f"sample {place} of the stream has length "
        ):
            list(batches)


@pytest.mark.parametrize("kind", [int, float, np.int32, np.float64, np.array])
def test_whole_numbers_of_any_kind_are_lengths(kind):
    batches = stream(range(100), length=lambda i: kind(1 + i % 7), batching=BUDGET)
    assert sorted(i for batch in batches for i in batch) == list(range(100))


@pytest.mark.parametrize(
    ("bad", "place"),
    [(3, 1), ((3,), 177), ((3, 4, 5), 350), ([1, 2, 3], 177), (np.array([1, 2, 3]), 1)],
)
def test_a_sample_of_other_columns_than_the_first_names_itself(bad, place):
    lengths = [(5, 6)] * 400
    lengths[place] = bad
    batches = stream(range(400), length=lengths.__getitem__, batching=BUDGET, buffer_size=100)
    with pytest.raises(
        bw.errors.LengthsError, match=f"sample {place} of the stream has length "
    ) as told:
        list(batches)
    if np.shape(bad) != (1,):
        assert "expected 2 whole numbers" in str(told.value)


def test_a_sample_of_several_columns_among_plain_ones_names_itself():
    lengths = [5] * 500
    lengths[321] = (5, 6)
    batches = stream(range(500), length=lengths.__getitem__, batching=BUDGET, buffer_size=100)
    with pytest.raises(bw.errors.LengthsError, match=r"sample 321 .*expected one whole number"):
        list(batches)


@pytest.mark.parametrize("bad", [(3, 0), (3, -1), (3, 2.5), (float("nan"), 3), (3, None), (3, "4")])
def test_a_column_that_is_no_length_names_its_sample(bad):
    lengths = [(5, 6)] * 500
    lengths[321] = bad
    batches = stream(range(500), length=lengths.__getitem__, batching=BUDGET, buffer_size=100)
    with pytest.raises(bw.errors.LengthsError, match="sample 321 of the stream has length"):
        list(batches)


@pytest.mark.parametrize("kind", [tuple, list, np.array, lambda each: np.array(each, np.uint16)])
def test_lengths_of_columns_of_any_kind(kind):
    batches = stream(range(100), length=lambda i: kind([1 + i % 7, 2]), batching=BUDGET)
    assert sorted(i for batch in batches for i in batch) == list(range(100))


@pytest.mark.parametrize("batching", [bw.TokenBudget((20, 20, 20)), bw.Packing((20, 20, 20))])
def test_a_budget_for_other_columns_is_refused(batching):
    with pytest.raises(bw.errors.BudgetError, match="one for each column"):
        next(stream([(3, 4)], length=lambda pair: pair, batching=batching))
    with pytest.raises(bw.errors.BudgetError, match=r"lengths are \[n\]"):
        next(stream([3, 4], length=lambda size: size, batching=batching))


@pytest.mark.parametrize(
    ("batching", "ways"),
    [
        (bw.TokenBudget(20), 'oversize="drop".'),
        (bw.TokenBudget((20, 20)), 'oversize="drop".'),
        (bw.Packing(20, oversize="truncate"), 'oversize="drop".'),
        (bw.Packing((20, 20), oversize="split"), 'oversize="drop" or "truncate".'),
    ],
)
def test_a_pair_above_the_budget_names_itself_and_the_ways_out(batching, ways):
    sizes = [(5, 5)] * 1_000
    sizes[613] = (5, 21)
    batches = stream(range(1_000), length=sizes.__getitem__, batching=batching, buffer_size=50)
    with pytest.raises(
        bw.errors.BudgetError, match=r"sample 613 of the stream, \[5, 21\] tok"
    ) as caught:
        list(batches)
    assert str(caught.value).endswith(ways)


def test_pairs_that_are_truncated_are_cut_column_by_column():
    options = {"batching": bw.Packing((4, 3), oversize="truncate"), "buffer_size": 4}
    pair = ([1, 2, 3, 4, 5], [6, 7])
    [[came]] = stream([pair], length=lambda each: tuple(map(len, each)), **options)
    assert came == ([1, 2, 3, 4], [6, 7])
    fields = {"input_ids": pair[0], "labels": pair[1]}
    options["length"] = lambda each: (len(each["input_ids"]), len(each["labels"]))
    with pytest.raises(bw.errors.LengthsError, match="cut="):
        next(stream([fields], **options))

    def cut(each, start, stop):
        parts = zip(each.items(), start, stop, strict=True)
        return {name: values[first:last] for (name, values), first, last in parts}

    [[came]] = stream([fields], cut=cut, **options)
    assert came == {"input_ids": [1, 2, 3, 4], "labels": [6, 7]}


def test_the_length_of_a_dict_or_tuple_has_to_be_said():
    for each in ({"input_ids": [1, 2]}, ([1], [2]), 3):
        with pytest.raises(bw.errors.LengthsError, match="length=sample"):
            next(stream([each], batching=BUDGET))


@pytest.mark.parametrize("source", sorted(SOURCES))
def test_a_stream_without_samples_is_an_error(source):
    with pytest.raises(bw.errors.SourceError, match="gave no sample"):
        next(stream(SOURCES[source]([]), batching=BUDGET))


def test_an_iterator_that_was_gone_through_is_an_error_in_the_next_epoch():
    samples = iter([[1], [2]])
    assert len(list(stream(samples, batching=BUDGET, epoch=0))) == 1
    with pytest.raises(bw.errors.SourceError, match="start → iterator"):
        next(stream(samples, batching=BUDGET, epoch=1))


@pytest.mark.parametrize(
    ("batching", "ways"),
    [
        (bw.TokenBudget(20), '"drop" or "truncate"'),
        (bw.Packing(20), '"drop" or "split" or "truncate"'),
    ],
)
def test_a_sample_above_the_budget_names_itself_and_the_ways_out(batching, ways):
    samples = [sample(i, 5) for i in range(1_000)]
    samples[613] = sample(613, 21)
    batches = stream(iter(samples), batching=batching, buffer_size=50)
    with pytest.raises(
        bw.errors.BudgetError, match="sample 613 of the stream, 21 tokens"
    ) as caught:
        list(batches)
    assert ways in str(caught.value)


def test_what_is_dropped_is_listed():
    samples = [sample(i, 30 if i % 100 == 7 else 5) for i in range(1_000)]
    for part, numbers in (
        ((0, 1), range(7, 1_000, 100)),
        ((1, 2), range(7, 1_000, 100)),
        ((0, 2), ()),
    ):
        batches = stream(
            samples, batching=bw.TokenBudget(20, oversize="drop"), buffer_size=50, part=part
        )
        came = {tokens[0] for batch in batches for tokens in batch}
        assert batches.dropped == list(numbers)
        assert came == set(range(part[0], 1_000, part[1])) - set(numbers)


def test_if_all_are_dropped_it_is_an_error():
    with pytest.raises(bw.errors.BudgetError, match="all 3 samples"):
        next(stream([[1] * 9] * 3, batching=bw.TokenBudget(8, oversize="drop")))


def test_what_cannot_be_cut_asks_how():
    samples = [{"input_ids": [1] * 30}]
    options = {
        "batching": bw.Packing(20, oversize="split"),
        "length": lambda s: len(s["input_ids"]),
    }
    with pytest.raises(bw.errors.LengthsError, match="cut="):
        next(stream(samples, **options))
    cut = stream(
        samples, cut=lambda s, start, stop: {"input_ids": s["input_ids"][start:stop]}, **options
    )
    assert sorted(len(piece["input_ids"]) for row in cut for piece in row) == [10, 20]


def test_too_few_samples_for_the_ranks_come_twice_and_say_so():
    few = stream([[1], [2], [3]], batching=BUDGET, world_size=4)
    with pytest.warns(UserWarning, match=r'3 samples are left .* 4 ranks .*last="drop"'):
        assert len(list(few)) == 1


def test_a_source_that_failed_is_not_at_its_end():
    """A generator that raised says StopIteration ever after."""

    def samples():
        yield from ([number] for number in range(500))
        raise OSError("the disk is gone")

    batches = stream(samples(), batching=BUDGET, buffer_size=50)
    with pytest.raises(OSError, match="disk"):
        list(batches)
    with pytest.raises(bw.errors.PlanError, match="nothing is lost"):
        list(batches)


def test_a_batch_is_not_lost_when_reading_fails():
    fails = [True]

    def samples(start):
        for number in range(start, 500):
            if number == 300 and fails:
                fails.clear()
                raise OSError("for a moment")
            yield [number]

    first = stream(samples, batching=BUDGET, buffer_size=50)
    second = stream(samples, batching=BUDGET, buffer_size=50)
    seen = []
    with pytest.raises(OSError, match="for a moment"):
        seen.extend(first)  # a list keeps what came before the error
    second.load_state_dict(first.state_dict())
    seen.extend(second)
    assert sorted(n for batch in seen for [n] in batch) == list(range(500))


def a_state(consumed=40, **options):
    batches = stream([sample(i, 1 + i % 9) for i in range(900)], **({"batching": BUDGET} | options))
    for _ in range(consumed):
        next(batches)
    return batches.state_dict()


def resumed(batches, state):
    batches.load_state_dict(state)
    return next(batches)


OPTIONS = {"batching": BUDGET, "buffer_size": 100}


@pytest.fixture(scope="module")
def saved():
    return a_state(**OPTIONS)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"seed": 1}, "seed=0, now seed=1"),
        ({"epoch": 2}, "epoch=0, now epoch=2"),
        ({"part": (0, 2)}, "same number of workers"),
        ({"length": lambda s: len(s) + 1}, "another one"),
    ],
)
def test_a_state_of_another_stream_is_refused(saved, change, sentence):
    samples = [sample(i, 1 + i % 9) for i in range(900)]
    with pytest.raises(bw.errors.PlanError, match=sentence):
        resumed(stream(samples, **(OPTIONS | change)), saved)


@pytest.mark.parametrize("source", sorted(SOURCES))
def test_a_state_of_a_longer_stream_is_refused(saved, source):
    samples = [sample(i, 1 + i % 9) for i in range(150)]
    other = stream(SOURCES[source](samples), **OPTIONS)
    other.load_state_dict(saved)
    with pytest.raises(bw.errors.PlanError, match="now has fewer"):
        next(other)


CHANGES = [
    {"accumulate": 10**30}, {"window": 10**30}, {"window": -1}, {"read": 1.5}, {"read": 2**40}, {"first": 10**6}, {"emitted": True},
    {"held": "no base64!"}, {"held": "AAAA"}, {"held": 7}, {"held": ""}, {"world_size": 0},
    {"shard": 3}, {"shard": [0, 1, 1]}, {"shard": [1, 1]}, {"emitted": 10**6}, {"emitted": 1.0},
    {"batches": 1}, {"batches": "1"}, {"pieces": 3}, {"pieces": {"a": 1}}, {"pieces": {"5": [[3]]}},
    {"ended": 1}, {"is_last": None}, {"settings": None}, {"settings": {}}, {"epoch": -1},
    {"pieces": {"5": [[0, 50]]}}, {"pieces": {"5000": [[0, 1]]}}, {"pieces": {"800": []}},
    {"settings": {"batching": {"kind": "os.system"}, "buffer_size": 100, "last": "short"}},
    {"settings": {"batching": None, "buffer_size": 0, "last": "short"}},
    {"settings": {"batching": None, "buffer_size": 100, "last": "never"}},
    {"settings": {"batching": None, "buffer_size": 100, "last": ["short"]}},
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_state_that_was_changed_is_refused(saved, change):
    other = stream([sample(i, 1 + i % 9) for i in range(900)], **OPTIONS)
    state = saved | change
    with pytest.raises(bw.errors.PlanError, match="changed after it was saved"):
        other.load_state_dict(state)
    # Whoever makes the checksum fit gets no further.
    fields = {name: value for name, value in state.items() if name not in {"version", "checksum"}}
    with pytest.raises(bw.errors.PlanError):
        resumed(other, sealed(fields, version=state["version"]))


@pytest.mark.parametrize("change", [{"version": 1}, {"new": 1}, {"checksum": 1}])
def test_a_state_of_another_form_is_refused(saved, change):
    with pytest.raises(bw.errors.PlanError):
        stream([[1]], **OPTIONS).load_state_dict(saved | change)


def test_a_state_without_one_of_its_keys_is_refused(saved):
    for name in saved:
        state = {key: value for key, value in saved.items() if key != name}
        with pytest.raises(bw.errors.PlanError, match="not a state of a stream: it is without"):
            stream([[1]], **OPTIONS).load_state_dict(state)


def test_no_state_at_all_is_refused():
    for state in ({}, [], None, {"version": 2}, "state"):
        with pytest.raises(bw.errors.PlanError, match="not a state"):
            stream([[1]], **OPTIONS).load_state_dict(state)


def test_a_stream_that_began_takes_no_state():
    batches = stream([[1], [2]], **OPTIONS)
    state = batches.state_dict()
    next(batches)
    with pytest.raises(bw.errors.PlanError, match="begun"):
        batches.load_state_dict(state)


class Table:
    """What has columns, as pandas, Arrow and Polars have them."""

    columns = ("text",)

    def __len__(self):
        return 3

    def __getitem__(self, row):
        return self

    def __iter__(self):
        return iter(self.columns)


@pytest.mark.parametrize("table", [Table(), {"train": [[1]], "test": [[2]]}])
def test_a_table_or_a_dict_is_not_a_stream_of_its_columns(table):
    with pytest.raises(bw.errors.SourceError, match=r"samples is \w+, .* give the rows"):
        stream(table, batching=BUDGET)


def test_samples_with_labels_of_their_own_are_gone_through():
    class Series:
        def __len__(self):
            return 3

        def keys(self):
            return [7, 8, 9]

        def __getitem__(self, label):
            return {7: [1], 8: [2], 9: [3]}[label]

        def __iter__(self):
            return map(self.__getitem__, self.keys())

    batches = stream(Series(), batching=BUDGET)
    assert sorted(sample for batch in batches for sample in batch) == [[1], [2], [3]]
