import hashlib
import json
import pickle
import struct
from copy import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import batchwright as bw
from batchwright._array_file import sealed
from batchwright.batching.cut import Cut
from batchwright.layout import Padded
from batchwright.plans import Origin
from tests.strategies import jobs

LENGTHS = np.random.default_rng(0).integers(1, 100, 300)


@pytest.mark.slow
@given(jobs(max_size=60, min_tokens=16), st.integers(0, 5))
def test_round_trip(tmp_path_factory, job, epoch):
    try:
        plan = job.planner()(epoch)
    except (bw.errors.PlanError, bw.errors.BudgetError):
        return
    path = tmp_path_factory.mktemp("plans") / "plan.safetensors"
    plan.save(path)
    loaded = bw.Plan.load(path)
    assert loaded == plan
    assert loaded.layout == plan.layout
    assert loaded.origin == plan.origin
    assert loaded.stats(job.lengths) == plan.stats(job.lengths)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    index = bw.LengthIndex.build(job.lengths, path.parent / "lengths.index")
    other = job.planner(lengths=index)(epoch)
    assert other == plan
    for view in (other, other[::-2], other.shard(0, job.world_size)):
        view.save(path)
        for again in (bw.Plan.load(path), pickle.loads(pickle.dumps(view))):  # noqa: S301
            assert again == view
            assert (again.layout, again.origin) == (view.layout, view.origin)
            assert again.dropped.keys() == view.dropped.keys()
            assert again.stats(index) == view.stats(index)


def test_a_plan_of_the_largest_seed_is_read(tmp_path):
    plan = bw.plan(LENGTHS, max_tokens=200, seed=2**4096)
    plan.save(tmp_path / "plan.safetensors")
    assert bw.Plan.load(tmp_path / "plan.safetensors").origin == plan.origin


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("plans") / "plan.safetensors"
    bw.plan(LENGTHS, batching=bw.TokenBudget(64, oversize="drop"), seed=3).save(path)
    return path


def test_a_file_cut_anywhere_is_refused(saved, tmp_path):
    whole = saved.read_bytes()
    cut = tmp_path / "cut.safetensors"
    for size in sorted({*range(0, len(whole), 97), 0, 1, 8, 9, len(whole) - 1}):
        cut.write_bytes(whole[:size])
        with pytest.raises(bw.errors.PlanError, match=r"cut\.safetensors: "):
            bw.Plan.load(cut)


def test_a_byte_changed_anywhere_is_refused(saved, tmp_path):
    whole = saved.read_bytes()
    changed = tmp_path / "changed.safetensors"
    original = bw.Plan.load(saved)
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    places = [*range(header), *range(header, len(whole), 41), len(whole) - 1]
    for place in places:
        content = bytearray(whole)
        content[place] ^= 1 << (place % 8)
        changed.write_bytes(content)
        try:
            loaded = bw.Plan.load(changed)
        except bw.errors.PlanError as error:
            assert "changed.safetensors: " in str(error)
            assert "\n" not in str(error)
        else:  # white space in the header: nothing that is read
            assert loaded == original
            assert (loaded.layout, loaded.origin) == (original.layout, original.origin)


def test_a_plan_with_a_valid_shape_but_changed_numbers_is_refused(saved, tmp_path):
    plan = bw.Plan.load(saved)
    size = struct.unpack("<Q", saved.read_bytes()[:8])[0]
    metadata = json.loads(saved.read_bytes()[8 : 8 + size])["__metadata__"]
    path = tmp_path / "forged.safetensors"
    arrays = {"indices": plan.indices[::-1].copy(), "offsets": plan.offsets}
    save_file(arrays | {"dropped.oversize": plan.dropped["oversize"]}, path, metadata=metadata)
    with pytest.raises(bw.errors.PlanError, match="changed after it was saved"):
        bw.Plan.load(path)


def test_a_plan_that_lists_other_repeats_is_refused(tmp_path):
    saved, forged = tmp_path / "saved.safetensors", tmp_path / "forged.safetensors"
    planned = bw.plan([5, 3, 8], batching=bw.FixedSize(1), world_size=4, last="repeat")
    planned.save(saved)
    size = struct.unpack("<Q", saved.read_bytes()[:8])[0]
    metadata = json.loads(saved.read_bytes()[8 : 8 + size])["__metadata__"]
    arrays = {"indices": planned.indices.copy(), "offsets": planned.offsets.copy()}
    for repeated in (planned.repeated.copy(), (planned.repeated + 1) % 3, np.array([], dtype=int)):
        save_file(arrays | ({"repeated": repeated} if repeated.size else {}), forged, metadata)
        if np.array_equal(repeated, planned.repeated):
            assert bw.Plan.load(forged).repeated.tolist() == repeated.tolist()
            continue
        with pytest.raises(bw.errors.PlanError, match="changed after it was saved"):
            bw.Plan.load(forged)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file") as missing:
        bw.Plan.load(tmp_path / "nothing.safetensors")
    assert missing.type is bw.errors.SourceNotFoundError
    other = tmp_path / "other.safetensors"
    save_file({"weight": np.zeros(3)}, other)
    with pytest.raises(bw.errors.PlanError, match="not a plan"):
        bw.Plan.load(other)
    later = tmp_path / "later.safetensors"
    save_file(
        {"indices": np.zeros(1, dtype=np.int64), "offsets": np.array([0, 1])},
        later,
        metadata={"format": "batchwright-plan", "format_version": "99"},
    )
    with pytest.raises(bw.errors.PlanError, match="a plan of format 99"):
        bw.Plan.load(later)
    with pytest.raises(bw.errors.PlanError, match="cannot be written"):
        bw.plan([1, 2], max_tokens=4).save(tmp_path / "no" / "folder.safetensors")


def test_a_pickle_is_not_opened(tmp_path):
    path = tmp_path / "plan.safetensors"
    np.save(path.with_suffix(".npy"), np.array([{"a": 1}], dtype=object), allow_pickle=True)
    path.with_suffix(".npy").rename(path)
    with pytest.raises(bw.errors.PlanError):
        bw.Plan.load(path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layout": {"budget": 0}}, "budget=0"),
        ({"layout": {"budget": "many"}}, "budget='many'"),
        ({"layout": {"kind": "folded"}}, "kind='folded'"),
        ({"layout": {"multiple": 0}}, "multiple=0"),
        ({"layout": {"max_length": -3}}, "max_length=-3"),
        ({"layout": {"budget": 9, "shapes": [[3, 4]]}}, "more than the budget holds"),
        ({"layout": {"budget": 9, "shapes": [[2, [2, 3]]]}}, "more than the budget holds"),
        ({"layout": {"shapes": [[3, [4, 4]], [4, [4, 2]]]}}, "by what a row takes"),
        ({"layout": {"shapes": [[3, [4, 2]], [3, [4]]]}}, r"expected .rows, length"),
        ({"layout": {"shapes": [[3, [4, 2.5]]]}}, "wrong type"),
        ({"layout": {"caps": [9, 9], "shapes": [[3, [4, 2]]]}}, "more than the budget holds"),
        ({"layout": {"caps": [9, 9, 9], "shapes": [[1, [4, 2]]]}}, "changed or damaged"),
        ({"origin": {"world_size": 0}}, "world_size=0"),
        ({"origin": {"accumulate": -1}}, "accumulate=-1"),
        ({"origin": {"num_samples": "few"}}, "num_samples='few'"),
        ({"origin": {"num_samples": 2}}, "samples 0 to 2, for 2 lengths"),
        ({"origin": {"colour": "red"}}, "colour='red'. is unknown"),
        ({"starts": [0, 0, -1]}, r"starts\[2\] is -1"),
        ({"indices": [0, -1, 2]}, r"indices\[1\] is -1"),
    ],
)
def test_impossible_values_are_refused_though_the_digest_is_right(tmp_path, changes, said):
    """A file that somebody wrote by hand, with a digest that fits."""
    arrays = {"indices": np.array([0, 1, 2]), "offsets": np.array([0, 2, 3])}
    arrays |= {name: np.array(changes[name]) for name in ("indices", "starts") if name in changes}
    metadata = {
        "format": "batchwright-plan",
        "format_version": "1",
        "layout": json.dumps({"kind": "padded"} | changes.get("layout", {})),
        "origin": json.dumps({"num_samples": 3} | changes.get("origin", {})),
    }
    # A plan has no negative numbers, and so no digest of them: it is refused before that is read.
    plain = {name: np.abs(array) for name, array in arrays.items()}
    plan = bw.Plan(plain["indices"], plain["offsets"], starts=plain.get("starts"))
    told = f"{plan.digest()}{metadata['layout']}{metadata['origin']}"
    metadata["digest"] = hashlib.sha256(told.encode()).hexdigest()
    path = tmp_path / "crafted.safetensors"
    save_file(arrays, path, metadata=metadata)
    with pytest.raises(bw.errors.PlanError, match=said):
        bw.Plan.load(path)


def test_odd_values_that_are_possible_can_be_measured():
    """A budget that the plan does not keep, a world far larger than the plan: told, not raised."""
    plan = bw.Plan(
        np.array([0, 1, 2]),
        np.array([0, 2, 3]),
        layout=Padded(2),
        origin=Origin(world_size=2**62),
    )
    stats = plan.stats([5, 3, 4])
    assert stats.max_batch_tokens == 10
    assert stats.lower_bound == 3
    beyond = bw.Plan(np.array([0]), np.array([0, 1]), starts=np.array([9]))
    with pytest.raises(bw.errors.PlanError, match="after the end of a sample"):
        beyond.stats([5])


# -- Plans that are computed from an index --------------------------------------------------------


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return bw.LengthIndex.build(LENGTHS, tmp_path_factory.mktemp("index") / "lengths.index")


computed = pytest.mark.parametrize(
    "batching",
    [
        bw.TokenBudget(128),
        bw.TokenBudget(64, oversize="drop"),
        bw.TokenBudget(64, oversize="truncate", slack=0.1),
        bw.TokenBudget(128, mixing="update"),
        bw.Packing(128),
        bw.Buckets(3, max_tokens=128),
        bw.FixedSize(7),
    ],
)


@computed
def test_a_plan_of_an_index_in_a_file_is_written_as_what_it_is_computed_from(
    index, tmp_path, batching
):
    path = tmp_path / "plan.safetensors"
    planner = bw.Planner(index, batching=batching, world_size=2, accumulate=2, seed=5)
    whole = planner(3)
    for plan in (whole, whole.shard(1, 2), whole[5:9], whole.take(np.array([4, 0, 2]))):
        plan.save(path)
        assert "recipe" in header_of(path)["__metadata__"]
        loaded = bw.Plan.load(path)
        assert [batch.tolist() for batch in loaded] == [batch.tolist() for batch in plan]
        assert (loaded.layout, loaded.origin) == (plan.layout, plan.origin)
        assert loaded == plan
        assert loaded.identity() == plan.identity()
        plan.save(path, arrays=True)
        assert "indices" in header_of(path)
        assert bw.Plan.load(path) == plan


def header_of(path):
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + size])


def test_other_plans_of_an_index_are_written_as_arrays(index, tmp_path):
    path = tmp_path / "plan.safetensors"
    split = bw.plan(index, batching=bw.Packing(40, oversize="split"))
    for plan in (
        split,
        bw.equalize(bw.plan(index, max_tokens=128), multiple_of=11),
        bw.plan(index, max_tokens=128, order=bw.Sequential()),
        bw.plan(LENGTHS, max_tokens=128),
    ):
        plan.save(path)
        assert "indices" in header_of(path)
        assert bw.Plan.load(path) == plan


def test_an_index_that_was_moved_is_found_or_named(tmp_path):
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    here.mkdir()
    index, path = there / "lengths.index", here / "plan.safetensors"
    plan = bw.plan(bw.LengthIndex.build(LENGTHS, index), max_tokens=128)
    plan.save(path)
    elsewhere = index.rename(here / "other.index")
    with pytest.raises(bw.errors.SourceNotFoundError, match=r"lengths\.index, which is not there"):
        bw.Plan.load(path)
    assert bw.Plan.load(path, index=elsewhere) == plan
    beside = elsewhere.rename(here / "lengths.index")
    assert bw.Plan.load(path) == plan
    bw.LengthIndex.build(LENGTHS[::-1].copy(), beside)
    with pytest.raises(bw.errors.PlanError, match="an index of other lengths"):
        bw.Plan.load(path)
    beside.write_bytes(b"nothing")
    with pytest.raises(bw.errors.PlanError, match="not a length index"):
        bw.Plan.load(path)


def test_a_recipe_that_was_cut_or_changed_anywhere_is_refused(index, tmp_path):
    path, changed = tmp_path / "plan.safetensors", tmp_path / "changed.safetensors"
    bw.plan(index, batching=bw.TokenBudget(64, oversize="drop"), seed=3).save(path)
    original, whole = bw.Plan.load(path), path.read_bytes()
    for size in sorted({*range(0, len(whole), 97), 0, 1, 8, 9, len(whole) - 1}):
        changed.write_bytes(whole[:size])
        with pytest.raises(bw.errors.PlanError, match=r"changed\.safetensors: "):
            bw.Plan.load(changed)
    for place in range(0, len(whole), 11):
        content = bytearray(whole)
        content[place] ^= 1 << (place % 8)
        changed.write_bytes(content)
        try:
            loaded = bw.Plan.load(changed)
        except bw.errors.PlanError as error:
            assert "changed.safetensors: " in str(error)
            assert "\n" not in str(error)
        else:
            assert loaded == original
            assert (loaded.layout, loaded.origin) == (original.layout, original.origin)


@pytest.mark.parametrize(
    "changes",
    [
        {"skip": -1},
        {"skip": 10**12},
        {"limit": 0},
        {"placement": {"num_batches": 3, "start": 0, "world_size": 1, "accumulate": 1, "key": 1}},
        {"placement": {"num_batches": 44, "start": 0, "world_size": 0, "accumulate": 1, "key": 1}},
        {"placement": {"colour": 1}},
        {"even": {"num_samples": 300, "num_batches": 0, "batch_size": 1}},
        {"even": {"num_samples": 10**15, "num_batches": 10**15, "batch_size": 1}},
        {"places": [0, 10**9, 1]},
        {"places": [-3, 2, 1]},
        {"places": [0, 0, 1]},
        {"places": [0, 1, 0]},
        {"places": [0]},
        {"places": None},
        {"key": "many"},
        {"index": 3},
        {"colour": "red"},
        {"first": -1},
        {"first": 2**62},
        {"samples": 0},
        {"batches": 2**40},
        {"lengths": 0},
        {"start": 2**63 - 1},
    ],
)
def test_an_impossible_recipe_is_refused_though_the_checksum_is_right(index, tmp_path, changes):
    path = tmp_path / "plan.safetensors"
    bw.plan(index, max_tokens=128).save(path)
    metadata = header_of(path)["__metadata__"]
    del metadata["sha256"]
    arrays = load_file(path)
    ((name, value),) = changes.items()
    if name in ("start", "samples", "first", "batches", "lengths"):
        cut = copy(Cut.unpacked(arrays["cut"].tobytes()))
        object.__setattr__(cut, name, np.append(getattr(cut, name)[:-1], value))
        arrays["cut"] = np.frombuffer(cut.packed(), np.int8)
    else:
        metadata["recipe"] = json.dumps(json.loads(metadata["recipe"]) | changes)
    save_file(arrays, path, metadata=sealed(arrays, metadata))
    with pytest.raises(bw.errors.PlanError, match=r"plan\.safetensors: "):
        bw.Plan.load(path)


def test_plans_of_a_large_index_are_small_in_pickles_and_files(tmp_path):
    """Ten million samples of up to 60,000 tokens; no batch of them is made."""
    values, counts = np.arange(60_000, 0, -1), np.full(60_000, 170)
    path = tmp_path / "lengths.index"
    ids = np.memmap(tmp_path / "ids", np.uint32, "w+", shape=(int(counts.sum()),))
    index = bw.LengthIndex(ids, values, counts, "0" * 32, path)
    plan = bw.Planner(index, max_tokens=1 << 17, world_size=8)(0)
    assert len(pickle.dumps(plan)) < 1 << 20
    plan.save(tmp_path / "plan.safetensors")
    assert (tmp_path / "plan.safetensors").stat().st_size < 1 << 20


def test_a_pickled_plan_leaves_out_the_arrays_that_were_asked_for(index):
    plan = bw.plan(index, max_tokens=128)
    before = len(pickle.dumps(plan))
    assert plan.indices.size == LENGTHS.size
    assert len(pickle.dumps(plan)) == before
    assert pickle.loads(pickle.dumps(plan)) == plan  # noqa: S301 -- made here
