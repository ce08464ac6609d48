"""Buckets of samples with two lengths: the least padding of a few shapes, and only those."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import batchwright as bw
from batchwright.batching.edges import best_pairs
from batchwright.layout import Padded
from batchwright.stats.plan_facts import file_facts
from tests import reference, strategies

AREAS = {"sum": lambda *lengths: sum(lengths), "product": lambda *lengths: math.prod(lengths)}


def area_of(kind, limit=math.inf):
    """Make the area of padded lengths as `best_pairs` takes it."""

    def area(padded):
        taken = Padded(area=kind).areas(padded).astype(float)
        return np.where(taken <= limit, taken, np.inf)

    return area


def taken_by(pairs, shapes, area):
    """Add up the areas where each sample goes to its own range, whichever column is cut first."""
    totals = []
    for turn in (slice(None), slice(None, None, -1)):
        total = 0
        for pair in pairs:
            high = min(shape[turn][0] for shape in shapes if shape[turn][0] >= pair[turn][0])
            inside = [
                area(*shape)
                for shape in shapes
                if shape[turn][0] == high and shape[turn][1] >= pair[turn][1]
            ]
            total += min(inside, default=math.inf)
        totals.append(total)
    return min(totals)


pairs_of_few = st.lists(
    st.tuples(st.integers(1, 12), st.sampled_from([1, 2, 5, 8, 12])), min_size=1, max_size=7
)


@pytest.mark.slow
@settings(deadline=None)
@given(
    pairs=pairs_of_few,
    num_shapes=st.integers(1, 4),
    kind=st.sampled_from(["sum", "product"]),
    slack=st.none() | st.integers(0, 60),
)
def test_shapes_are_as_good_as_the_best_of_all_choices(pairs, num_shapes, kind, slack):
    area = AREAS[kind]
    limit = math.inf if slack is None else max(area(*pair) for pair in pairs) + slack

    def within(*lengths):
        return area(*lengths) if area(*lengths) <= limit else math.inf

    least = reference.least_guillotine_area(pairs, num_shapes, within)
    found = best_pairs(np.array(pairs), num_shapes, area_of(kind, limit))
    if found is None:
        assert least == math.inf
        return
    shapes = [tuple(shape) for shape in found.tolist()]
    assert len(set(shapes)) == len(shapes) <= num_shapes
    assert all(area(*shape) <= limit for shape in shapes)
    assert taken_by(pairs, shapes, area) == least


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 99),
    kind=st.sampled_from(["sum", "product"]),
    num_shapes=st.integers(1, 16),
    data=st.sampled_from(["translation", "images", "independent"]),
)
def test_padding_is_never_above_that_of_a_grid_of_quantiles(seed, kind, num_shapes, data):
    pairs = {"translation": translation, "images": images, "independent": independent}[data](seed)
    budget = Padded(area=kind).areas(pairs.max(axis=0, keepdims=True)).item()
    batching = bw.Buckets(num_shapes, max_tokens=1000 * budget, area=kind)
    edges = np.array([lengths for _, lengths in batching.shapes(pairs)])
    assert len(edges) <= num_shapes
    areas = Padded(area=kind).areas(edges)
    holds = (pairs[:, None] <= edges).all(axis=-1)
    found = np.where(holds, areas, np.inf).min(axis=1).sum()
    for rows in (n for n in range(1, num_shapes + 1) if num_shapes % n == 0):
        grid = [
            np.unique(np.quantile(pairs[:, column], np.arange(1, n + 1) / n, method="higher"))
            for column, n in enumerate((rows, num_shapes // rows))
        ]
        places = [np.searchsorted(grid[c], pairs[:, c]) for c in (0, 1)]
        padded = np.stack([grid[c][places[c]] for c in (0, 1)], axis=1)
        assert found <= Padded(area=kind).areas(padded).sum()


def translation(seed, size=3000):
    rng = np.random.default_rng(seed)
    source = np.clip(rng.lognormal(3.5, 0.9, size), 1, 1024).astype(int)
    target = np.clip(source * rng.lognormal(0.2, 0.3, size) + 1, 1, 1024).astype(int)
    return np.stack([source, target], axis=1)


def images(seed, size=3000):
    """Heights and widths of a few usual ratios, at any scale."""
    rng = np.random.default_rng(seed)
    ratio = rng.choice([3 / 4, 1, 4 / 3, 16 / 9], size)
    height = rng.integers(100, 800, size)
    return np.stack([height, (height * ratio).astype(int)], axis=1)


def independent(seed, size=3000):
    return np.random.default_rng(seed).integers(14, 640, (size, 2))


def test_two_columns_need_far_less_padding_than_a_grid():
    pairs = translation(0, 20_000)
    planner = bw.Planner(pairs, batching=bw.Buckets(16, max_tokens=16_384))
    stats = planner(0).stats(pairs)
    assert stats.shapes <= 16
    assert stats.efficiency > 0.65


@st.composite
def pairs_of_lengths(draw):
    size = draw(st.integers(8, 100))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    lengths = rng.integers(1, 41, (size, 2))
    if draw(st.booleans()):
        lengths[:, 1] = np.clip(lengths[:, 0] + rng.integers(-2, 3, size), 1, 40)
    return lengths.astype(draw(st.sampled_from([np.int64, np.int32, np.uint16])))


@st.composite
def buckets_of_pairs(draw):
    kind = draw(st.sampled_from(["sum", "product", "each"]))
    low, high = {"sum": (80, 500), "product": (1600, 9000), "each": (40, 300)}[kind]
    budget = draw(st.integers(low, high))
    if kind == "each":
        budget = (budget, draw(st.integers(low, high)))
    return bw.Buckets(
        draw(st.integers(1, 7)),
        max_tokens=budget,
        area="product" if kind == "product" else "sum",
        max_samples=draw(st.none() | st.integers(1, 20)),
        pad_to_multiple_of=draw(st.sampled_from([1, 8])),
        batch_size_multiple_of=draw(st.sampled_from([1, 4])),
    )


def within_budget(shape, batching):
    rows, lengths = shape
    if batching.max_samples is not None and rows > batching.max_samples:
        return False
    if isinstance(batching.max_tokens, tuple):
        return all(rows * a <= cap for a, cap in zip(lengths, batching.max_tokens, strict=True))
    return rows * AREAS[batching.area](*lengths) <= batching.max_tokens


@pytest.mark.slow
@settings(deadline=None)
@given(
    lengths=pairs_of_lengths(),
    batching=buckets_of_pairs(),
    world=st.sampled_from([(1, 1), (2, 1), (2, 2)]),
    order=st.sampled_from([None, bw.Shuffle(window=20)]),
    cost=st.sampled_from([None, "padded", "quadratic"]),
    epoch=st.integers(0, 5),
)
def test_every_guarantee_holds(lengths, batching, world, order, cost, epoch):
    update = world[0] * world[1]
    try:
        planner = bw.Planner(
            lengths,
            batching=batching,
            order=order,
            world_size=world[0],
            accumulate=world[1],
            cost=cost,
            last="drop",
        )
    except bw.errors.PlanError as error:
        assert "samples cannot fill" in str(error)
        return
    plan = planner(epoch)
    # Every sample once, and as many batches in every epoch and on every rank.
    assert np.array_equal(strategies.accounted(plan), np.arange(len(lengths)))
    if plan.dropped:
        return
    assert len(plan) == len(planner)
    assert len(plan) % update == 0
    # A few shapes, the same in every epoch, none above the budget.
    shapes = plan.layout.shapes
    assert len(shapes) <= batching.num_shapes
    assert planner(epoch + 1).layout.shapes == shapes
    multiple = batching.pad_to_multiple_of
    for rows, padded in shapes:
        assert all(length % multiple == 0 for length in padded)
        assert within_budget((rows, padded), batching)
        assert not rows % batching.batch_size_multiple_of or rows < batching.batch_size_multiple_of
    # A batch is of one shape, where each of its samples takes the least.
    area = AREAS[batching.area]
    own = [reference.shape_of(each, shapes, area) for each in lengths.tolist()]
    taken, squares, seen = [], [], set()
    for batch in plan:
        (shape,) = {own[index] for index in batch.tolist()}
        rows, padded = shape
        assert len(batch) <= rows
        taken.append(rows * area(*padded))
        squares.append(rows * sum(length**2 for length in padded))
        seen.add(shape)
    # Batches are full but for the last of each shape and pool, and those split for equal counts.
    if order is None:
        needed = sum(-(-own.count(shape) // shape[0]) for shape in set(own))
        assert len(plan) == -(-needed // update) * update
    entries = plan.entry_lengths(lengths)
    assert plan.layout.batch_tokens(entries, plan.offsets).tolist() == taken
    assert plan.layout.batch_costs(entries, plan.offsets, "padded").tolist() == taken
    assert plan.layout.batch_costs(entries, plan.offsets, "quadratic").tolist() == squares
    stats = plan.stats(lengths)
    assert stats.padded_tokens == sum(taken)
    assert stats.shapes == len(seen)
    assert stats.lower_bound <= stats.num_batches
    assert planner(epoch).digest() == plan.digest()


@pytest.mark.slow
@settings(deadline=None)
@given(
    lengths=pairs_of_lengths(),
    kind=st.sampled_from(["sum", "product", "each"]),
    share=st.floats(0.3, 0.9),
    num_shapes=st.integers(1, 9),
    multiple=st.sampled_from([1, 8]),
)
def test_samples_above_the_budget_are_dropped_and_the_rest_is_planned(
    lengths, kind, share, num_shapes, multiple
):
    """Budgets so tight that a shape of the longest lengths of both columns exceeds them."""
    area = AREAS["product" if kind == "product" else "sum"]
    budget = max(multiple, int(share * area(40, 40)))
    batching = bw.Buckets(
        num_shapes,
        max_tokens=(budget // 2 + 8, budget // 3 + 8) if kind == "each" else budget,
        area="product" if kind == "product" else "sum",
        pad_to_multiple_of=multiple,
        oversize="drop",
    )
    padded = [[reference.rounded(each, multiple) for each in row] for row in lengths.tolist()]
    alone = [within_budget((1, row), batching) for row in padded]
    try:
        plan = bw.plan(lengths, batching=batching)
    except bw.errors.BudgetError as error:
        if any(alone):
            assert "found no so few shapes" in str(error)
            fitting = [tuple(row) for row, fits in zip(padded, alone, strict=True) if fits]
            assert num_shapes < len(set(fitting))
        return
    dropped = plan.dropped.get("oversize", np.empty(0, dtype=int))
    assert dropped.tolist() == [index for index, fits in enumerate(alone) if not fits]
    assert np.array_equal(np.sort(plan.indices), np.flatnonzero(alone))
    assert len(plan.layout.shapes) <= num_shapes
    assert all(within_budget(shape, batching) for shape in plan.layout.shapes)
    for batch in plan:
        (shape,) = {reference.shape_of(padded[i], plan.layout.shapes, area) for i in batch}
        assert len(batch) <= shape[0]


def test_edges_of_the_users_own():
    lengths = np.array([[3, 2], [10, 4], [7, 8], [16, 16], [1, 1], [4, 12]])
    edges = [(16, 16), (8, 8), (4, 16)]
    batching = bw.Buckets(edges=edges, max_tokens=64)
    plan = bw.plan(lengths, batching=batching)
    assert plan.layout.shapes == ((4, (8, 8)), (3, (4, 16)), (2, (16, 16)))
    assert sorted(sorted(batch.tolist()) for batch in plan) == [[0, 2, 4], [1, 3], [5]]
    with pytest.raises(bw.errors.BudgetError, match=r"index 1: \[17, 1\]"):
        bw.plan([[3, 3], [17, 1]], batching=batching)
    dropped = bw.plan(
        [[17, 1], [3, 3]], batching=bw.Buckets(edges=edges, max_tokens=64, oversize="drop")
    )
    assert dropped.dropped["oversize"].tolist() == [0]
    # Of more columns, too.
    three = bw.Buckets(edges=[(2, 4, 6), (6, 6, 6)], max_tokens=36)
    plan = bw.plan([[1, 1, 1], [2, 4, 6], [3, 1, 1]], batching=three)
    assert plan.layout.shapes == ((3, (2, 4, 6)), (2, (6, 6, 6)))
    assert sorted(sorted(batch.tolist()) for batch in plan) == [[0, 1], [2]]


def test_budgets_of_each_column():
    lengths = translation(1, 2000)
    batching = bw.Buckets(8, max_tokens=(4096, 6000), pad_to_multiple_of=8)
    plan = bw.plan(lengths, batching=batching, world_size=2, accumulate=2)
    for rows, (source, target) in plan.layout.shapes:
        assert rows * source <= 4096
        assert rows * target <= 6000
        assert (rows + 1) * source > 4096 or (rows + 1) * target > 6000
    assert plan.stats(lengths).shapes <= 8


@pytest.mark.parametrize("max_tokens", [2000, (700, 800)])
def test_saved_with_its_shapes_and_split_for_more_ranks(tmp_path, max_tokens):
    lengths = np.minimum(translation(2, 400), 600)
    plan = bw.plan(lengths, batching=bw.Buckets(5, max_tokens=max_tokens))
    plan.save(tmp_path / "plan.safetensors")
    loaded = bw.Plan.load(tmp_path / "plan.safetensors")
    assert loaded == plan
    assert loaded.layout == plan.layout
    assert loaded.stats(lengths) == plan.stats(lengths)
    told = json.loads(json.dumps(asdict(file_facts(loaded))))["layout"]["shapes"]
    assert tuple((rows, tuple(each)) for rows, each in told) == plan.layout.shapes
    split = bw.equalize(loaded, multiple_of=64)
    assert len(split) % 64 == 0
    assert split.stats(lengths).shapes <= 5
    assert np.array_equal(np.sort(split.indices), np.arange(400))


def test_shapes_found_for_what_hardly_fits():
    """High images and wide ones: no shape holds both, but one for each does."""
    lengths = np.array([[64, 4], [4, 64], [16, 16], [60, 3], [3, 60]])
    plan = bw.plan(lengths, batching=bw.Buckets(3, max_tokens=256, area="product"))
    assert {shape for _, shape in plan.layout.shapes} == {(64, 4), (4, 64), (16, 16)}
    with pytest.raises(bw.errors.BudgetError, match="found no so few shapes within the budget"):
        bw.plan(lengths, batching=bw.Buckets(2, max_tokens=256, area="product"))


def test_a_curriculum_keeps_the_shapes():
    lengths = translation(3, 500)
    order = bw.Curriculum(lengths.sum(axis=1), pacing=bw.pacing.root(start=0.3), epochs=3)
    planner = bw.Planner(lengths, batching=bw.Buckets(4, max_tokens=8000), order=order)
    assert len({planner(epoch).layout.shapes for epoch in range(5)}) == 1
    assert {len(planner(epoch)) for epoch in range(5)} == {len(planner)}


@pytest.mark.parametrize(
    ("settings_", "said"),
    [
        ({"edges": [(3, 3), (3, 3)], "max_tokens": 10}, "distinct tuples"),
        ({"edges": [(3, 0)], "max_tokens": 10}, "distinct tuples"),
        ({"edges": [(3, 3.5)], "max_tokens": 10}, "distinct tuples"),
        ({"edges": [(3, 3), (3,)], "max_tokens": 10}, "rising whole numbers"),
        ({"edges": [(3, 8)], "max_tokens": 10}, "within max_tokens=10 as the sum"),
        ({"edges": [(3, 8)], "max_tokens": (5, 5)}, r"within max_tokens=\(5, 5\)\.$"),
        ({"edges": [3, 8], "max_tokens": 5}, r"within max_tokens=5\.$"),
        ({"edges": [(4, 4)], "max_tokens": 15, "area": "product"}, "as the product"),
        ({"edges": [(3, 8)], "max_tokens": (10, 10, 10)}, "distinct tuples"),
        ({"edges": [3, 8], "max_tokens": (10, 10)}, "rising whole numbers"),
        ({"edges": [(4, 6)], "max_tokens": 10, "pad_to_multiple_of": 4}, "multiples of"),
        ({"num_shapes": 2, "max_tokens": ()}, "expected one budget for each column"),
        ({"num_shapes": 2, "max_tokens": (3, 0)}, "max_tokens=0"),
        ({"num_shapes": 2, "max_tokens": 9, "area": "volume"}, "area='volume'"),
    ],
)
def test_bad_settings(settings_, said):
    with pytest.raises(bw.errors.BudgetError, match=said):
        bw.Buckets(**settings_)


@pytest.mark.parametrize(
    ("lengths", "batching", "said"),
    [
        ([[3, 4, 5]], bw.Buckets(2, max_tokens=20), "got 3 columns"),
        ([3, 4], bw.Buckets(2, max_tokens=(20, 20)), "a budget for each of several columns"),
        ([[3, 4]], bw.Buckets(2, max_tokens=(20, 20, 20)), "expected one budget"),
        ([[3, 4]], bw.Buckets(edges=[8], max_tokens=20), "lengths of 2 columns"),
        ([3, 4], bw.Buckets(edges=[(8, 8)], max_tokens=20), "lengths of 1 columns"),
    ],
)
def test_columns_that_do_not_suit_the_settings(lengths, batching, said):
    with pytest.raises(bw.errors.BudgetError, match=said):
        bw.plan(lengths, batching=batching)


@pytest.mark.parametrize(
    "shapes",
    [
        [],
        [[2, [8, 8]], [2, [8, 8]]],
        [[2, [8, 8]], [4, [4, 4]]],
        [[2, [8, 8]], [4, 16]],
        [[2, [8, 8]], [1, [8, 8, 16]]],
        [[2, []]],
        [[2, [8, -8]]],
        [[0, [8, 8]]],
        [[2, [8, 8.5]]],
        [[2, [8, "8"]]],
        [[2, [[8, 8]]]],
        [[3, [8, 8]]],
        [[2**80, [8, 8]]],
        [[2, [8, 2**80]]],
        [[2, 16], [2**60, 17]],
        [[2, 16.5]],
        [[2]],
        [3],
        3,
    ],
    ids=str,
)
def test_shapes_that_make_no_sense_are_refused(shapes):
    with pytest.raises(bw.errors.BudgetError, match="shapes="):
        Padded(32, shapes=shapes)


def test_a_sample_that_no_edge_holds_is_told_of_the_edges() -> None:
    batching = bw.Buckets(max_tokens=100, edges=[(4, 4), (8, 6)])
    with pytest.raises(
        bw.errors.BudgetError, match=r"edges=.*too small for 1 of 2 .*index 1: .*\[9, 2\]"
    ):
        bw.plan([[3, 3], [9, 2]], batching=batching)
