"""Scoring by shards: the same numbers as at once, cut off or not; on Ray: tests/sources."""

import functools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright.difficulty import compression, rarity, score
from batchwright.difficulty.scoring import Column
from batchwright.errors import LengthsError, MissingExtraError, SourceError, SourceNotFoundError
from tests.difficulty.killed import SAMPLES, SHARD_SIZE
from tests.patience import PATIENCE

SCRIPT = Path(__file__).with_name("killed.py")
SOURCE = Path(__file__).resolve().parents[2] / "src"


def square(samples):
    return np.asarray(samples) ** 2


def cube(samples):
    return np.asarray(samples) ** 3


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50), st.integers(1, 60))
def test_shards_together_are_the_whole(samples, shard_size):
    seen = []

    def metric(part):
        seen.append(len(part))
        return square(part)

    assert np.array_equal(score(samples, metric, shard_size=shard_size), square(samples))
    assert sum(seen) == len(samples)
    assert max(seen) <= shard_size


def test_finished_shards_are_not_scored_again(tmp_path):
    def metric(part):
        calls.append(len(part))
        if len(calls) == 3 and stop:
            raise KeyboardInterrupt
        return square(part)

    calls, stop = [], True
    samples = np.arange(10.0)
    with pytest.raises(KeyboardInterrupt):
        score(samples, metric, shard_size=2, folder=tmp_path / "scores")
    calls, stop = [], False
    result = score(samples, metric, shard_size=2, folder=tmp_path / "scores")
    assert len(calls) == 3  # of five, two were finished
    assert np.array_equal(result, square(samples))
    calls = []
    assert np.array_equal(score(samples, metric, shard_size=2, folder=tmp_path / "scores"), result)
    assert calls == []
    names = sorted(path.name for path in (tmp_path / "scores").iterdir())
    assert names == ["manifest.json", *(f"shard-{k:08d}.npy" for k in range(5))]


def start(folder, calls, stop_at, output):
    environment = os.environ | {"PYTHONPATH": str(SOURCE)}
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(folder), str(calls), str(stop_at), str(output)],
        env=environment,
    )


@pytest.mark.slow
def test_a_process_that_is_killed_goes_on_where_it_was(tmp_path):
    folder, calls, output = tmp_path / "scores", tmp_path / "calls", tmp_path / "out.npy"
    num_shards = SAMPLES.size // SHARD_SIZE
    process = start(folder, calls, num_shards - 2, output)
    deadline = time.monotonic() + PATIENCE
    while len(list(folder.glob("shard-*.npy"))) < 4:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait(PATIENCE)
    finished = len(list(folder.glob("shard-*.npy")))
    assert 4 <= finished < num_shards - 2
    assert not output.exists()
    calls.unlink()
    assert start(folder, calls, 0, output).wait(PATIENCE) == 0
    assert calls.stat().st_size == num_shards - finished
    assert np.array_equal(np.load(output), SAMPLES**2)


def test_a_damaged_shard_is_scored_again(tmp_path):
    samples = np.arange(10.0)
    score(samples, square, shard_size=3, folder=tmp_path)
    shard = tmp_path / "shard-00000001.npy"
    shard.write_bytes(shard.read_bytes()[:-5])
    assert np.array_equal(score(samples, square, shard_size=3, folder=tmp_path), square(samples))
    np.save(shard, np.array([{}], dtype=object), allow_pickle=True)
    assert np.array_equal(score(samples, square, shard_size=3, folder=tmp_path), square(samples))


def test_a_folder_of_something_else_is_refused(tmp_path):
    samples = np.arange(10.0)
    folder = tmp_path / "scores"
    score(samples, square, shard_size=3, folder=folder)
    others = [
        (samples[:-1], square, {}, "num_samples"),
        (samples + 1, square, {}, "data"),
        (samples, cube, {}, "metric"),
        (samples, square, {"shard_size": 4}, "shard_size"),
        (samples, square, {"fingerprint": "another model"}, "fingerprint"),
    ]
    for data, metric, options, word in others:
        with pytest.raises(LengthsError, match=word):
            score(data, metric, folder=folder, **({"shard_size": 3} | options))
    (folder / "manifest.json").write_text("{", encoding="utf-8")
    with pytest.raises(LengthsError, match="not a folder of scores"):
        score(samples, square, shard_size=3, folder=folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(LengthsError, match="manifest"):
        score(samples, square, shard_size=3, folder=folder)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(LengthsError, match="file"):
        score(samples, square, folder=file)


@pytest.mark.parametrize(
    "samples",
    [
        ["a", "b", "c"],
        [b"a", b"bc"],
        [[1, 2], [3]],
        [{"text": "a", "n": 1.5}, {"text": None, "n": 2}],
        [np.ones(2), np.zeros(3)],
        [(1, True), (2, False)],
    ],
    ids=lambda samples: type(samples[0]).__name__ + str(len(samples)),
)
def test_data_is_known_again_from_process_to_process(samples, tmp_path):
    code = (
        "import sys, json, numpy as np; from batchwright.difficulty.scoring import data_facts;"
        "from numpy import array; print(json.dumps(data_facts(eval(sys.argv[1]))))"
    )
    found = [
        json.loads(
            subprocess.run(
                [sys.executable, "-c", code, repr(samples)],
                env=os.environ | {"PYTHONPATH": str(SOURCE), "PYTHONHASHSEED": seed},
                capture_output=True,
                check=True,
                timeout=PATIENCE,
            ).stdout
        )
        for seed in ("1", "2")
    ]
    assert found[0] == found[1]
    assert found[0]["num_samples"] == len(samples)


def test_partial_metrics_and_functions_of_one_name_are_told_apart(tmp_path):
    def metric(part):
        return np.asarray(part) + 1

    first = metric

    def metric(part):
        return np.asarray(part) - np.asarray(part).size

    score([1.0, 2.0], first, folder=tmp_path)
    with pytest.raises(LengthsError, match="metric"):
        score([1.0, 2.0], metric, folder=tmp_path)
    partial = functools.partial(rarity, mean=True)
    assert score(["a a b"], partial, folder=tmp_path / "other")[0] > 0


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (lambda part: [np.nan if x == 4 else x for x in part], ["sample 4", "nan"]),
        (lambda _: [1.0], ["samples 0 to 2", "float[3]"]),
        (lambda _: 1.0, ["samples 0 to 2"]),
        (lambda part: ["a"] * len(part), ["samples 0 to 2"]),
        (lambda _: [[1], [1, 2], []], ["the metric's answer"]),
    ],
    ids=range(5),
)
def test_a_metric_that_gives_no_number_is_named(metric, words):
    with pytest.raises(LengthsError) as raised:
        score(list(range(6)), metric, shard_size=3)
    assert [word for word in words if word not in str(raised.value)] == []


@pytest.mark.parametrize(
    ("source", "options"),
    [
        ([], {}),
        (iter([1]), {}),
        ([1], {"shard_size": 0}),
        ([1], {"backend": "cluster"}),
        ([1], {"column": "text"}),
        ([1], {"backend": "ray"}),
    ],
    ids=range(6),
)
def test_what_cannot_be_scored_is_refused(source, options):
    with pytest.raises(LengthsError):
        score(source, square, **options)


TEXTS = ["the cat", "", 'a "quoted", one', "ünïcödé — naïve", "x" * 500, "last"]


def write(path, texts):
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"id": range(len(texts)), "text": texts})
    match path.suffix:
        case ".jsonl":
            lines = (json.dumps({"id": k, "text": text}) for k, text in enumerate(texts))
            path.write_text("\n".join(lines), encoding="utf-8")
        case ".csv":
            import pyarrow.csv

            pyarrow.csv.write_csv(table, path)
        case ".parquet":
            import pyarrow.parquet

            pyarrow.parquet.write_table(table, path, row_group_size=2)
        case ".txt":
            path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet", ".txt"])
@pytest.mark.parametrize("shard_size", [1, 4, 100])
def test_texts_of_files_are_scored_as_texts(suffix, shard_size, tmp_path):
    path = tmp_path / f"texts{suffix}"
    write(path, TEXTS)
    folder = tmp_path / "scores"
    for _ in range(2):
        scores = score(path, compression, shard_size=shard_size, folder=folder)
        assert np.array_equal(scores, compression(TEXTS))
    (folder / "shard-00000000.npy").unlink()
    assert np.array_equal(score(path, compression, shard_size=shard_size, folder=folder), scores)
    write(path, [*TEXTS, "one more"])
    with pytest.raises(LengthsError, match="data"):
        score(path, compression, shard_size=shard_size, folder=folder)


def test_numbers_and_lists_of_files(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"n": 3, "ids": [1, 2]}\n{"n": 4.5, "ids": []}\n', encoding="utf-8")
    assert score(path, square, column="n").tolist() == [9.0, 20.25]
    counted = score(path, lambda rows: [len(row) for row in rows], column="ids", shard_size=1)
    assert counted.tolist() == [2.0, 0.0]


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("null.jsonl", '{"text": "a"}\n{"text": null}\n', LengthsError),
        ("cut.jsonl", '{"text": "a"}\n{"te', SourceError),
        ("empty.txt", "", SourceError),
        ("binary.txt", b"\xff\xfe\x00", SourceError),
        ("objects.jsonl", '{"text": {"a": 1}}\n', SourceError),
        ("table.csv", "text\n", SourceError),
        ("table.doc", "text", SourceError),
    ],
)
def test_files_that_cannot_be_scored_are_refused(name, content, error, tmp_path):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(error):
        score(path, compression)


def test_a_missing_file_is_refused(tmp_path):
    for name in ("missing.jsonl", "missing.txt"):
        with pytest.raises(SourceNotFoundError):
            score(tmp_path / name, compression)


def test_without_ray_it_says_what_to_install(tmp_path, monkeypatch):
    write(tmp_path / "texts.txt", TEXTS)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'ray\[data\]'"):
        score(tmp_path / "texts.txt", compression, backend="ray")


def test_samples_in_memory_are_not_sent_to_ray():
    with pytest.raises(LengthsError, match="takes the path of files"):
        score([1.0], square, backend="ray")


def test_of_a_file_too_the_sample_is_named_by_its_row(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS), encoding="utf-8")
    with pytest.raises(LengthsError, match="sample 5 "):
        score(path, lambda part: [np.inf if x == "last" else 1 for x in part], shard_size=2)


def test_rows_are_named_across_batches_and_shards(tmp_path):
    pa = pytest.importorskip("pyarrow")
    path = tmp_path / "rows.arrow"
    with pa.ipc.new_file(path, pa.schema([("n", pa.int64())])) as file:
        for start in (0, 5, 10):
            file.write(pa.record_batch([pa.array(range(start, start + 5))], names=["n"]))
    rows = [
        (place.first_row, values.to_pylist())
        for shard in Column(path, "n").shards(3)
        for values, place in shard.samples
    ]
    assert rows == [
        *[(0, [0, 1, 2]), (3, [3, 4]), (5, [5]), (6, [6, 7, 8]), (9, [9])],
        *[(10, [10, 11]), (12, [12, 13, 14])],
    ]


def test_a_kept_shard_of_which_a_bit_was_changed_is_scored_again(tmp_path):
    texts = ["a", "bb", "ccc", "dddd"]
    scored = []

    def metric(batch):
        scored.extend(batch)
        return [len(text) for text in batch]

    folder = tmp_path / "kept"
    expected = score(texts, metric, shard_size=2, folder=folder).tolist()
    path = folder / "shard-00000001.npy"
    whole = path.read_bytes()
    assert np.load(path).tolist() == [3, 4]  # the checksum is after its end
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        scored.clear()
        assert score(texts, metric, shard_size=2, folder=folder).tolist() == expected
        assert scored == ["ccc", "dddd"]
        assert path.read_bytes() == whole
