"""Length indexes: against a plain sort, in memory and in a file; files that are refused."""

import hashlib
import json
import multiprocessing
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import batchwright as bw
from batchwright import index as index_module
from tests.strategies import lengths as drawn_lengths


def plainly(lengths):
    """Sort by length, from long to short, by Python's own sort."""
    return sorted(range(len(lengths)), key=lambda i: -int(lengths[i]))


@given(lengths=drawn_lengths(), block=st.integers(1, 7))
def test_an_index_is_a_stable_sort(lengths, block):
    before = index_module._CHUNK
    index_module._CHUNK = block  # several blocks, of little data
    try:
        index = bw.LengthIndex.build(lengths)
    finally:
        index_module._CHUNK = before
    assert index.ids.tolist() == plainly(lengths)
    assert index.counts.sum() == len(lengths)
    assert np.repeat(index.values, index.counts).tolist() == sorted(map(int, lengths))[::-1]
    assert np.array_equal(index.lengths(), np.asarray(lengths))


@pytest.mark.parametrize("longest", [9, 70_000, 2**40])
def test_lengths_of_any_size_are_sorted(longest):
    lengths = np.random.default_rng(0).integers(1, longest, 3_000)
    assert bw.LengthIndex.build(lengths).ids.tolist() == plainly(lengths)


def test_a_file_holds_the_same(tmp_path):
    lengths = np.random.default_rng(0).integers(1, 500, 5_000).astype(np.uint16)
    there = bw.LengthIndex.build(lengths, tmp_path / "a.index")
    here = bw.LengthIndex.build(lengths)
    assert isinstance(there.ids, np.memmap)
    assert there.ids.dtype == np.uint32
    for name in ("ids", "values", "counts"):
        assert np.array_equal(getattr(there, name), getattr(here, name))
    assert there.fingerprint == here.fingerprint == bw.Planner(lengths, max_tokens=900).fingerprint
    assert [each.name for each in tmp_path.iterdir()] == ["a.index"]


def test_an_index_stands_for_its_lengths(tmp_path):
    lengths = np.random.default_rng(1).integers(1, 99, 400)
    index = bw.LengthIndex.build(lengths, tmp_path / "a.index")
    planner = bw.Planner(index, max_tokens=300, accumulate=2)
    assert planner(3) == bw.Planner(lengths, max_tokens=300, accumulate=2)(3)
    assert planner(3).stats(index) == planner(3).stats(lengths)


def _sizes(index, answers):
    answers.put((index.num_samples, int(index.ids[0])))


def test_a_pickle_holds_the_path_only(tmp_path):
    lengths = np.random.default_rng(0).integers(1, 500, 50_000)
    index = bw.LengthIndex.build(lengths, tmp_path / "a.index")
    assert len(pickle.dumps(index)) < 1_000
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=_sizes, args=(index, answers))
    process.start()
    assert answers.get(timeout=120) == (50_000, int(index.ids[0]))
    process.join()
    bw.LengthIndex.build(lengths + 1, tmp_path / "a.index")
    with pytest.raises(bw.errors.PlanError, match="built anew for other lengths"):
        pickle.loads(pickle.dumps(index))  # noqa: S301 -- ours


def test_arrays_are_read_only(tmp_path):
    index = bw.LengthIndex.build([3, 5, 3])
    saved = bw.LengthIndex.build([3, 5, 3], tmp_path / "index")
    for each in (index, saved, pickle.loads(pickle.dumps(index))):  # noqa: S301
        assert not any(array.flags.writeable for array in (each.ids, each.values, each.counts))


def test_an_index_of_other_lengths_is_refused(tmp_path):
    bw.LengthIndex.build([3, 5, 2], tmp_path / "a.index")
    assert bw.LengthIndex.open(tmp_path / "a.index", [3, 5, 2]).num_samples == 3
    with pytest.raises(bw.errors.PlanError, match="other lengths"):
        bw.LengthIndex.open(tmp_path / "a.index", [3, 5, 4])


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "a.index"
    bw.LengthIndex.build(np.arange(1, 300), path)
    whole = path.read_bytes()
    header = 40 + struct.unpack("<Q", whole[:8])[0]
    damaged = {
        "empty": b"",
        "no header": whole[:20],
        "half a header": whole[: header // 2],
        "cut off": whole[:-4],
        "longer": whole + b"1234",
        "another count": whole.replace(b'"num_samples": 299', b'"num_samples": 298'),
        "huge header": struct.pack("<Q", 2**60) + whole[8:],
        "text": b"lengths\n1\n2\n" * 20,
    }
    for content in damaged.values():
        path.write_bytes(content)
        with pytest.raises(bw.errors.PlanError, match=r"a\.index.*Build it again"):
            bw.LengthIndex.open(path)
    with pytest.raises(bw.errors.SourceNotFoundError, match="no such file"):
        bw.LengthIndex.open(tmp_path / "b.index")
    with pytest.raises(bw.errors.PlanError):
        bw.LengthIndex.open(tmp_path)


@pytest.mark.parametrize(
    "change", [{"dtype": "I8"}, {"dtype": None}, {"values": "x"}, {"counts": [1]}]
)
def test_crafted_headers_are_refused(change, tmp_path):
    path = tmp_path / "a.index"
    bw.LengthIndex.build([3, 5, 2], path)
    whole = path.read_bytes()
    header = 40 + struct.unpack("<Q", whole[:8])[0]
    text = json.dumps(json.loads(whole[40:header]) | change).encode()
    start = struct.pack("<Q", len(text)) + hashlib.sha256(text).digest()
    path.write_bytes(start + text + whole[header:])
    with pytest.raises(bw.errors.PlanError, match="Build it again"):
        bw.LengthIndex.open(path)


@pytest.mark.parametrize("value", [0, 2**31])
def test_damaged_indices_are_refused(value, tmp_path):
    path = tmp_path / "a.index"
    bw.LengthIndex.build([3, 5, 2], path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-36] + struct.pack("<I", value) + whole[-32:])
    with pytest.raises(bw.errors.PlanError, match="indices were changed"):
        bw.LengthIndex.open(path)


@pytest.mark.parametrize("lengths", [[], [0, 1], [[1, 2], [3, 4]], [1.5]])
def test_lengths_that_are_none_are_refused(lengths):
    with pytest.raises(bw.errors.LengthsError):
        bw.LengthIndex.build(lengths)


def test_a_build_that_fails_leaves_the_old_index(tmp_path, monkeypatch):
    path = tmp_path / "a.index"
    bw.LengthIndex.build([3, 5, 2], path)
    monkeypatch.setattr(index_module, "_fill", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bw.LengthIndex.build([9, 9], path)
    assert bw.LengthIndex.open(path).num_samples == 3
    assert [each.name for each in tmp_path.iterdir()] == ["a.index"]


@pytest.mark.slow
def test_building_from_a_file_holds_little_memory(tmp_path):
    np.save(tmp_path / "lengths.npy", np.random.default_rng(0).integers(1, 4_000, 20_000_000, "u2"))
    code = (
        "import sys, numpy as np, batchwright as bw\n"
        "def private():\n"
        "    fields = dict(line.split(':') for line in open('/proc/self/status') if ':' in line)\n"
        "    return int(fields['RssAnon'].split()[0])\n"
        "bw.LengthIndex.build([1])\n"
        "before = private()\n"
        "bw.LengthIndex.build(np.load(sys.argv[1], mmap_mode='r'), sys.argv[2])\n"
        "print(private() - before)\n"
    )
    if not Path("/proc/self/status").exists():
        pytest.skip("private memory is read from Linux' /proc")
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "lengths.npy", tmp_path / "a.index"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 50_000  # KiB, of 80 MB of indices


def test_a_folder_is_no_file_of_an_index(tmp_path):
    with pytest.raises(bw.errors.PlanError, match="folder, expected a file.*open_index"):
        bw.LengthIndex.open(tmp_path)
