"""Wrong types at the doors of planning: one clear error of ours, or it simply works."""

import itertools
import json

import numpy as np
import pytest

import batchwright as bw
from batchwright.errors import BatchwrightError
from batchwright.layout import Layout, Packed, Padded, layout_of
from batchwright.plans import Origin
from batchwright.stats.variety import variety

LENGTHS = [5, 3, 8, 2, 7, 1, 4, 6]
WRONG = [
    None,
    True,
    1.5,
    -1,
    0,
    10**30,
    float("nan"),
    "many",
    b"9",
    [],
    [1, "a"],
    [[1], [2, 3]],
    {"a": 1},
    {1, 2},
    object(),
    bw.Shuffle,
    np.array("x"),
    np.zeros((2, 2)),
    lambda: None,
]
TABLE = bw.LossTable(8)

DOORS = {
    "TokenBudget": (bw.TokenBudget, {"max_tokens": 20}),
    "Packing": (bw.Packing, {"capacity": 20}),
    "FixedSize": (bw.FixedSize, {"batch_size": 2}),
    "Buckets": (bw.Buckets, {"num_shapes": 2, "max_tokens": 20}),
    "Buckets of edges": (bw.Buckets, {"edges": [4, 8], "max_tokens": 20}),
    "Shuffle": (bw.Shuffle, {"window": 3}),
    "Blocks": (bw.Blocks, {"sizes": 2}),
    "Weighted": (bw.Weighted, {"weights": range(8)}),
    "ClassBalanced": (bw.ClassBalanced, {"labels": list("aabbccdd")}),
    "Mixture": (bw.Mixture, {"groups": list("aabbccdd"), "weights": {"a": 1, "b": 2}}),
    "Mixture in time": (
        bw.Mixture,
        {"groups": list("aabbccdd"), "schedule": [(0.0, {"a": 1}), (1.0, {"b": 1})]},
    ),
    "Curriculum": (bw.Curriculum, {"difficulty": range(8)}),
    "SelfPaced": (bw.SelfPaced, {"table": TABLE, "noise_rate": 0.1}),
    "UnbiasedDropping": (bw.UnbiasedDropping, {"table": TABLE, "until": 9}),
    "CostModel": (bw.CostModel, {"a": 1.0}),
    "Planner": (bw.Planner, {"lengths": LENGTHS, "batching": bw.TokenBudget(20)}),
    "plan": (bw.plan, {"lengths": LENGTHS, "max_tokens": 20}),
    "Plan": (bw.Plan, {"indices": [2, 0, 1], "offsets": [0, 2, 3]}),
    "equalize": (bw.equalize, {"plan": bw.Plan([2, 0, 1], [0, 2, 3])}),
    "balance": (bw.balance, {"costs": [3, 2, 1], "parts": 2}),
    "coverage": (
        bw.coverage,
        {"planner": bw.Planner(LENGTHS, batching=bw.TokenBudget(20)), "epochs": 2},
    ),
    "mixing_dial": (
        bw.mixing_dial,
        {"lengths": LENGTHS, "batching": bw.TokenBudget(20), "epochs": 1},
    ),
    "variety": (
        variety,
        {"planner": bw.Planner(LENGTHS, batching=bw.TokenBudget(20)), "epochs": 2},
    ),
    "layout_of": (layout_of, {"kind": "padded", "budget": 20}),
    "Origin": (Origin, {"num_samples": 8}),
}
MORE = {
    "TokenBudget": (
        "max_samples pad_to_multiple_of batch_size_multiple_of oversize mixing slack area"
    ),
    "Packing": "method max_samples align oversize",
    "FixedSize": "pad_to_multiple_of",
    "Buckets": "edges max_samples pad_to_multiple_of batch_size_multiple_of oversize area",
    "Blocks": "open_blocks",
    "Weighted": "num_samples replacement",
    "ClassBalanced": "temperature after num_samples parts",
    "Mixture": "temperature schedule epochs num_samples parts unit",
    "Curriculum": "pacing epochs parts direction unit band",
    "SelfPaced": "warm_up epochs reserve groups",
    "UnbiasedDropping": "drop warm_up",
    "CostModel": "b c",
    "Planner": "order seed world_size accumulate step_tokens cost last",
    "plan": "batching order seed epoch world_size accumulate step_tokens cost last",
    "Plan": "starts dropped layout origin repeated",
    "equalize": "multiple_of num_batches",
    "balance": "equal_counts",
    "coverage": "groups",
    "mixing_dial": "world_size accumulate step_tokens seed positions",
    "variety": "num_samples",
    "layout_of": "max_samples multiple max_length shapes area caps",
    "Origin": "fingerprint seed epoch world_size accumulate last",
}
PLANNED = (bw.Weighted, bw.Curriculum, bw.Mixture, bw.Blocks, bw.SelfPaced, bw.UnbiasedDropping)


@pytest.mark.parametrize("door", DOORS)
def test_wrong_types_are_refused_in_our_words_or_work(door):
    make, good = DOORS[door]
    names = [*good, *MORE.get(door, "").split()]
    for name, wrong in itertools.product(names, WRONG):
        try:
            made = make(**good | {name: wrong})
            if isinstance(made, bw.Planner):
                made(0)
            if isinstance(made, PLANNED) and not callable(wrong):
                bw.Planner(LENGTHS, batching=bw.TokenBudget(20), order=made)(0)
        except BatchwrightError as error:
            assert str(error), (name, wrong)
        except Exception as error:  # noqa: BLE001 (this is what must not be)
            pytest.fail(f"{door}({name}={wrong!r}): {type(error).__name__}: {error}")


@pytest.mark.parametrize(
    ("order", "said"),
    [
        ("shuffle", "order='shuffle': expected Shuffle"),
        (bw.Shuffle, "expected Shuffle"),
        (lambda lengths: lengths, r"function \(lengths, \*, seed, epoch\)"),
        (lambda lengths, *, seed, epoch: [[1], [2, 3]], "no array of sample indices"),
        (lambda lengths, *, seed, epoch: None, "expected at least one sample index"),
        (lambda lengths, *, seed, epoch: "abc", "returned <U3"),
    ],
    ids=["word", "class", "other arguments", "ragged", "nothing", "text"],
)
def test_no_orders(order, said):
    with pytest.raises(bw.errors.PlanError, match=said):
        bw.Planner(LENGTHS, batching=bw.TokenBudget(20), order=order)


def test_layouts_and_parts_of_a_plan_are_named():
    for settings, said in (
        ({"layout": None}, r"layout=None: expected Padded\(…\) or Packed"),
        ({"origin": 3}, "origin=3: expected an Origin"),
        ({"dropped": {"last": 3}}, r"dropped\['last'\] is int64\[\], expected a flat array"),
        ({"dropped": {"last": [-3]}}, r"dropped\['last'\]\[0\] is -3"),
    ):
        with pytest.raises(bw.errors.PlanError, match=said):
            bw.Plan([0, 1], [0, 2], **settings)
    with pytest.raises(TypeError, match="abstract"):
        Layout(20)
    for layout in (Padded, Packed):
        for wrong in ({"caps": 0}, {"max_length": 0}, {"budget": 0}):
            with pytest.raises(bw.errors.BudgetError, match=rf"^{layout.__name__}\("):
                layout(**wrong)


def test_no_batchings():
    for batching in ("packing", bw.Packing, lambda order: order, 7):
        with pytest.raises(bw.errors.BudgetError, match=r"expected TokenBudget\(…\)"):
            bw.Planner(LENGTHS, batching=batching)
    for make in (bw.TokenBudget, bw.Packing, bw.FixedSize):
        with pytest.raises(
            bw.errors.BudgetError, match="=None.: expected an integer of at least 1"
        ):
            make(None)
    with pytest.raises(bw.errors.BudgetError, match="at most 9223372036854775807"):
        bw.TokenBudget(2**63)
    assert len(bw.plan(LENGTHS, max_tokens=2**63 - 1)) == 1  # "no limit", as some write it


@pytest.mark.parametrize(
    "lengths",
    [
        (length for length in LENGTHS),
        map(int, LENGTHS),
        dict(enumerate(LENGTHS)).values(),
        tuple(LENGTHS),
        np.array(LENGTHS, dtype=np.float32),
        range(1, 9),
    ],
    ids=["generator", "map", "values", "tuple", "floats", "range"],
)
def test_lengths_that_can_be_gone_through(lengths):
    assert bw.plan(lengths, max_tokens=99).indices.size == 8


@pytest.mark.parametrize(
    "lengths",
    [None, "12", b"12", {1, 2}, {1: 2}, 5, ["a"], [None], [True], [[1], [2, 3]]],
    ids=repr,
)
def test_no_lengths(lengths):
    with pytest.raises(bw.errors.LengthsError):
        bw.plan(lengths, max_tokens=99)


def test_integers_of_numpy_are_integers():
    """In every setting: and what is made of them is what Python's integers make, also as JSON."""
    n = np.int64
    settings = {"seed": n(3), "world_size": np.uint8(2), "accumulate": np.int32(2)}
    made = bw.Planner(LENGTHS * 4, batching=bw.TokenBudget(n(20)), **settings)
    plain = bw.Planner(LENGTHS * 4, batching=bw.TokenBudget(20), seed=3, world_size=2, accumulate=2)
    plan = made(n(5))
    assert plan == plain(5)
    assert repr(made) == repr(plain)
    for part in (plan.origin, plan.layout, made.batching):
        json.dumps(vars(part))
    assert plan.shard(n(1), n(2)) == plan.shard(1, 2)
    assert plan[n(0)].tolist() == plan[0].tolist()
    for left, right in (
        (bw.Packing((n(9), n(8)), align=n(2)), bw.Packing((9, 8), align=2)),
        (bw.FixedSize(n(9)), bw.FixedSize(9)),
        (bw.Buckets(n(2), max_tokens=n(9)), bw.Buckets(2, max_tokens=9)),
        (bw.TokenBudget(9, mixing=n(3)), bw.TokenBudget(9, mixing=3)),
        (bw.Blocks(n(3), open_blocks=n(2)), bw.Blocks(3, open_blocks=2)),
        (bw.Shuffle(n(3)), bw.Shuffle(3)),
        (bw.CostModel(np.float32(2)), bw.CostModel(2.0)),
    ):
        assert left == right
        json.dumps(vars(left))
    planner = bw.Planner(LENGTHS, batching=bw.TokenBudget(20))
    assert bw.coverage(planner, epochs=n(3)).epochs.tolist() == [0, 1, 2]
    assert bw.balance([3, 2, 1] * 20, n(4)).tolist() == bw.balance([3, 2, 1] * 20, 4).tolist()


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        (([0, -1], [0, 2]), r"indices\[1\] is -1"),
        (([0.5], [0, 1]), "expected a flat array of integers"),
        (([], [0]), "at least one batch"),
        (([0, 1], [0, 1, 1, 2]), "batch 1 holds no sample"),
        (([0, 1], [1, 2]), "offsets go from 1 to 2"),
        (([[0], [1, 2]], [0, 1]), "cannot be read as an array"),
    ],
)
def test_no_plans(arrays, said):
    with pytest.raises(bw.errors.PlanError, match=said):
        bw.Plan(*arrays)


def test_places_in_a_plan():
    plan = bw.Plan([4, 0, 2], [0, 2, 3])
    assert plan[-1].tolist() == [2]
    for wrong in ([-1], [2], [0.5], [[0]], []):
        with pytest.raises(bw.errors.PlanError):
            plan.take(wrong)
    for rank, world_size in ((-1, 2), (2, 2), (0, 0), ("0", 2), (0, None), (0.0, 1)):
        with pytest.raises(bw.errors.PlanError):
            plan.shard(rank, world_size)
    with pytest.raises(IndexError, match="batch 7 of a plan of 2"):
        plan[7]


@pytest.mark.parametrize("groups", [["a", None], [1.0, np.nan], [1, "b", None], [[1], [2]], "ab"])
def test_no_groups(groups):
    for make in (bw.ClassBalanced, lambda each: bw.Mixture(each, temperature=2.0)):
        with pytest.raises(bw.errors.LengthsError):
            make(groups)


def test_tokens_that_64_bits_cannot_hold_are_refused():
    for lengths, batching in (
        (np.full(2000, 2**53), bw.FixedSize(4)),
        (np.full((50, 2), 2**40), bw.TokenBudget((2**41, 2**41), area="product")),
        ([2**53, *[1] * 2000], bw.FixedSize(2001)),
    ):
        with pytest.raises(bw.errors.LengthsError, match="64-bit integers cannot count"):
            bw.plan(lengths, batching=batching).stats(lengths)
    images = [[2**32 + 1, 2**32 + 1], [3, 3]]
    with pytest.raises(bw.errors.BudgetError, match="too small for 1 of 2 samples"):
        bw.plan(images, batching=bw.TokenBudget(2**34, area="product"))
    kept = bw.plan(images, batching=bw.TokenBudget(2**34, area="product", oversize="drop"))
    assert (kept.indices.tolist(), kept.stats(images).max_batch_tokens) == ([1], 9)
    with pytest.raises(
        bw.errors.BudgetError, match="would split the samples into 9.01e\\+14 pieces"
    ):
        bw.plan([2**53], batching=bw.Packing(10, oversize="split"))
    large = bw.plan([2**53] * 400, batching=bw.FixedSize(1)).stats([2**53] * 400)
    assert large.num_tokens == large.padded_tokens == 400 * 2**53
    assert large.efficiency == 1.0


def test_no_epochs():
    planner = bw.Planner(LENGTHS, batching=bw.TokenBudget(20))
    for epoch in (-1, 1.0, "0", None, True, 2**33):
        with pytest.raises(bw.errors.PlanError, match="epoch="):
            planner(epoch)


@pytest.mark.parametrize("parts", [2, 3, 7])
def test_no_part_is_empty_while_another_can_give(parts):
    for costs in ([5.0] + [0.0] * 60, [1e-300] * 60, [0, 0, 1] * 30, [3.0] + [0.0] * (parts - 1)):
        counts = np.bincount(bw.balance(costs, parts), minlength=parts)
        assert counts.min() >= 1
