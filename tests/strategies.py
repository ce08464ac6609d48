"""What Hypothesis draws: lengths, settings, worlds."""

import warnings
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

import batchwright as bw

CAP = 60
"""The longest sample drawn; budgets are at least this unless a policy is to be tried."""


@st.composite
def lengths(draw, min_size=1, max_size=120, max_length=CAP):
    """Lengths of several shapes: uniform, long-tailed, all equal, in any integer type."""
    size = draw(st.integers(min_size, max_size))
    kind = draw(st.sampled_from(["any", "tail", "equal", "two"]))
    if kind == "any":
        values = draw(st.lists(st.integers(1, max_length), min_size=size, max_size=size))
    elif kind == "equal":
        values = [draw(st.integers(1, max_length))] * size
    elif kind == "two":
        pair = draw(st.tuples(st.integers(1, max_length), st.integers(1, max_length)))
        values = [pair[i % 2] for i in range(size)]
    else:
        rng = np.random.default_rng(draw(st.integers(0, 2**32)))
        values = np.clip(np.rint(rng.lognormal(2.0, 1.0, size)), 1, max_length).astype(int)
    dtype = draw(st.sampled_from([np.int64, np.int32, np.uint16, np.uint64]))
    return np.array(values, dtype=dtype)


@st.composite
def columns(draw, min_size=1, max_size=120, max_length=CAP):
    """Samples of two or three lengths: independent, alike, or of one column that varies."""
    size, width = draw(st.integers(min_size, max_size)), draw(st.integers(2, 3))
    kind = draw(st.sampled_from(["any", "alike", "one varies", "few"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = rng.integers(1, max_length + 1, (size, width))
    if kind == "alike":
        values = np.clip(values[:, :1] + rng.integers(-2, 3, (size, width)), 1, max_length)
    elif kind == "one varies":
        values[:, 1:] = 7
    elif kind == "few":
        values = 1 + values // 15
    return values.astype(draw(st.sampled_from([np.int64, np.int32, np.uint16, np.uint64])))


@st.composite
def at_the_limit(draw, drawn, batching):
    """Lengths of which some are exactly what a batch holds, or one token beside it."""
    values = draw(drawn)
    limit = getattr(getattr(batching, "layout", None), "longest_row", None)
    if limit is None or not draw(st.booleans()):
        return values
    steps = [-1, 0, 1] if limit < CAP else [-1, 0]  # above a large budget nothing is drawn
    values = values.copy()
    for place in draw(st.lists(st.integers(0, values.size - 1), min_size=1, max_size=3)):
        values[place] = max(1, limit + draw(st.sampled_from(steps)))
    return values


def _token_budget(max_tokens, *, mixing, slack, **options):
    slack = slack if mixing == "stratified" else 0.0
    return bw.TokenBudget(max_tokens, mixing=mixing, slack=slack, **options)


def token_budgets(min_tokens=CAP + 10, max_tokens=400):
    return st.builds(
        _token_budget,
        st.integers(min_tokens, max_tokens),
        max_samples=st.none() | st.integers(1, 20),
        pad_to_multiple_of=st.sampled_from([1, 2, 8]),
        batch_size_multiple_of=st.sampled_from([1, 4]),
        oversize=st.sampled_from(["error", "drop", "truncate"]),
        mixing=st.sampled_from(["stratified", "update", 1, 3]),
        slack=st.sampled_from([0.0, 0.02, 0.2, 1.0]),
    )


def packings(min_tokens=CAP + 10, max_tokens=400):
    return st.builds(
        bw.Packing,
        st.integers(min_tokens, max_tokens),
        method=st.sampled_from(["best_fit", "next_fit"]),
        max_samples=st.none() | st.integers(1, 20),
        align=st.sampled_from([1, 4, 8]),
        oversize=st.sampled_from(["error", "drop", "truncate", "split"]),
    )


def fixed_sizes():
    return st.builds(bw.FixedSize, st.integers(1, 40), pad_to_multiple_of=st.sampled_from([1, 8]))


def in_threes(order, lengths, rng):
    """A batching of the user's own: a function."""
    cuts = np.flatnonzero(rng.random(order.size - 1) < 1 / 3) + 1
    return bw.Plan(order, np.concatenate(([0], cuts, [order.size])))


def batchings(**budget):
    return token_budgets(**budget) | packings(**budget) | fixed_sizes() | st.just(in_threes)


def orders():
    """Orders that visit every sample once."""
    return (
        st.just(bw.Sequential())
        | st.builds(bw.Shuffle, st.none() | st.integers(1, 50))
        | st.builds(bw.Blocks, st.integers(1, 50), open_blocks=st.integers(1, 4))
    )


@dataclass(frozen=True)
class Job:
    """The arguments of a planner, and lengths enough for its world."""

    lengths: np.ndarray
    batching: object
    order: object
    seed: int
    world_size: int
    accumulate: int
    cost: object
    last: str = "repeat"

    def planner(self, **changed):
        options = {name: getattr(self, name) for name in self.__dataclass_fields__} | changed
        with warnings.catch_warnings():  # that it repeats a few samples
            warnings.filterwarnings("ignore", ".*samples cannot fill", UserWarning)
            return bw.Planner(options.pop("lengths"), **options)


@st.composite
def jobs(draw, max_size=120, **budget):
    """A planner's arguments: now and then with too few samples for whole updates."""
    world_size = draw(st.sampled_from([1, 1, 2, 3, 4]))
    accumulate = draw(st.sampled_from([1, 1, 2, 3]))
    last = draw(st.sampled_from(["short", "repeat", "drop"]))
    smallest = world_size * accumulate if last == "drop" else 1
    batching = draw(batchings(**budget))
    return Job(
        lengths=draw(at_the_limit(lengths(min_size=smallest, max_size=max_size), batching)),
        batching=batching,
        order=draw(orders()),
        seed=draw(st.integers(0, 2**40)),
        world_size=world_size,
        accumulate=accumulate,
        cost=draw(st.sampled_from([None, None, "padded", "quadratic", np.sqrt])),
        last=last,
    )


def accounted(plan):
    """Every sample that a plan holds or lists as left out, sorted, without what it repeats."""
    times = np.bincount(np.concatenate((plan.indices, *plan.dropped.values())))
    times -= np.bincount(plan.repeated, minlength=times.size)
    return np.repeat(np.arange(times.size), times)
