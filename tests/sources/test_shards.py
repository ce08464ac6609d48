"""One shard: measured as a whole corpus would be, once, the same bytes everywhere."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright import LengthIndex
from batchwright.difficulty import compression
from batchwright.errors import ColumnNotFoundError, LengthsError, SourceError, SourceNotFoundError
from batchwright.lengths import fingerprint
from batchwright.sources import index_shard, read_lengths, shards
from batchwright.sources.shards import column_of, facts_of
from tests.patience import PATIENCE

from .conftest import WITH_COLUMNS

pq = pytest.importorskip("pyarrow.parquet")

TEXTS = ["to be or not", "to be", "x", "to be", "ünïcödé — naïve  \u2003 text", "a b c d e f g"]
SOURCE = Path(__file__).resolve().parents[2] / "src"
NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("shards")


def characters(texts):
    return [len(text) for text in texts]


@given(
    lengths=st.lists(st.integers(1, 9) | st.integers(1, 2**32 - 1), min_size=1, max_size=60),
)
def test_rows_are_sorted_as_an_index_of_lengths_sorts_them(folder, lengths):
    shard = folder / f"{next(NUMBERS)}.npy"
    np.save(shard, np.array(lengths, np.int64))
    facts = index_shard(shard, shard.with_suffix(".parquet"))
    index = LengthIndex.build(lengths)
    assert facts.values.tolist() == index.values.tolist()
    assert facts.counts.tolist() == index.counts.tolist()
    assert (facts.num_rows, facts.fingerprint) == (len(lengths), index.fingerprint)
    table = pq.read_table(shard.with_suffix(".parquet"))
    assert [str(field.type) for field in table.schema] == ["uint32", "uint32"]
    assert table["length"].to_pylist() == lengths
    assert table["order"].to_pylist() == index.ids.tolist()


@pytest.mark.parametrize("name", WITH_COLUMNS)
def test_every_format_is_measured_as_it_is_read(write, name, tmp_path):
    path, file = write(name, {"text": TEXTS, "n": range(6)}), tmp_path / "index.parquet"
    for measure in ("words", "characters", "bytes"):
        facts = index_shard(path, file, measure=measure)
        lengths = read_lengths(path, measure=measure)
        assert column_of(file, "length", facts.fingerprint, 6).tolist() == lengths.tolist()
        assert facts.fingerprint == fingerprint(lengths)
        assert read_lengths(file, column="length").tolist() == lengths.tolist()


def test_a_shard_of_lists_of_tokens(write, tmp_path):
    path = write("data.parquet", {"input_ids": [[1, 2, 3], [4], [5, 6]]})
    assert index_shard(path, tmp_path / "index.parquet").values.tolist() == [3, 2, 1]


def test_the_facts_say_what_was_measured_of_which_file(write, tmp_path):
    path, file = write("data.jsonl", {"text": TEXTS}), tmp_path / "index.parquet"
    facts = index_shard(path, file, measure="words", scores={"characters": characters})
    assert facts_of(file).text() == facts.text()
    assert (facts.uri, facts.size) == (str(path), path.stat().st_size)
    assert facts.stamp == str(path.stat().st_mtime_ns)
    name = facts.measured["scores"].pop("characters")
    assert name.partition("#")[0].endswith("characters")
    asked = {"column": None, "measure": "words", "tokenizer": None, "empty": None, "scores": {}}
    assert facts.measured == asked
    assert json.loads(pq.read_metadata(file).metadata[b"batchwright"])["version"] == 1


def test_scores_are_those_of_the_metric_on_all_texts(write, tmp_path):
    path, file = write("data.parquet", {"text": TEXTS * 40}), tmp_path / "index.parquet"
    facts = index_shard(
        path, file, measure="words", scores={"long": characters, "first": map_first}
    )
    for name, expected in (("long", characters), ("first", map_first)):
        found = column_of(file, name, facts.fingerprint, facts.num_rows)
        assert found.dtype == np.float32
        assert found.tolist() == np.array(expected(TEXTS * 40), np.float32).tolist()
    with pytest.raises(SourceError, match=r"no scores named 'short'; it has 'long', 'first'"):
        column_of(file, "short", facts.fingerprint, facts.num_rows)


def map_first(texts):
    return [ord(text[0]) / 7 for text in texts]


def test_missing_rows_count_and_are_scored_as_empty_texts_where_asked(write, tmp_path):
    path, file = write("data.parquet", {"text": ["a b", None, "", "c"]}), tmp_path / "index.parquet"
    with pytest.raises(LengthsError, match=r"2 of 4 rows of 'text' are empty or missing.*--empty"):
        index_shard(path, file, measure="words")
    options = {"measure": "words", "empty": "one", "scores": {"size": characters}}
    facts = index_shard(path, file, **options)
    assert column_of(file, "length", facts.fingerprint, 4).tolist() == [2, 1, 1, 1]
    assert column_of(file, "size", facts.fingerprint, 4).tolist() == [3, 0, 0, 1]


@pytest.fixture
def measured(monkeypatch):
    """List the shards that are read from here on."""
    found = []
    real = shards.source_of

    def source_of(source, **options):
        found.append(Path(source).name)
        return real(source, **options)

    monkeypatch.setattr(shards, "source_of", source_of)
    return found


def test_what_is_complete_is_not_measured_again(write, tmp_path, measured):
    path, file = write("data.jsonl", {"text": TEXTS, "other": TEXTS[::-1]}), tmp_path / "i.parquet"
    asked = {"column": "text", "measure": "words"}
    facts = index_shard(path, file, **asked)
    before = file.read_bytes()
    assert index_shard(path, file, **asked).text() == facts.text()
    assert measured == ["data.jsonl"]
    others = [
        {"column": "other"},
        {"measure": "bytes"},
        {"empty": "one"},
        {"scores": {"size": characters}},
        {"measure": "tokens", "tokenizer": characters},
        {"measure": "tokens", "tokenizer": map_first_letter},
    ]
    for number, other in enumerate(others):
        index_shard(path, file, **asked | other)
        assert len(measured) == 2 + number
    assert index_shard(path, file, **asked).text() == facts.text()
    assert file.read_bytes() == before


def map_first_letter(texts):
    return [ord(text[0]) for text in texts]


def test_a_shard_that_changed_is_measured_again(write, tmp_path, measured):
    path, file = write("data.jsonl", {"text": TEXTS}), tmp_path / "index.parquet"
    first = index_shard(path, file, measure="words")
    os.utime(path, ns=(1, 1))
    index_shard(path, file, measure="words")
    path.write_text(path.read_text("utf-8") + '{"text": "one more"}\n', "utf-8")
    assert index_shard(path, file, measure="words").num_rows == first.num_rows + 1
    path.rename(tmp_path / "elsewhere.jsonl")
    index_shard(tmp_path / "elsewhere.jsonl", file, measure="words")
    assert len(measured) == 4


def test_half_a_file_or_another_is_replaced(write, tmp_path, measured):
    path, file = write("data.parquet", {"text": TEXTS}), tmp_path / "index.parquet"
    facts = index_shard(path, file, measure="words")
    whole = file.read_bytes()
    halves = [whole[:size] for size in (0, 3, 50, len(whole) // 2, len(whole) - 1)]
    for content in [*halves, b"text", path.read_bytes()]:
        file.write_bytes(content)
        assert facts_of(file) is None
        assert index_shard(path, file, measure="words").text() == facts.text()
        assert file.read_bytes() == whole
    assert len(measured) == 8


CODE = """
import sys
from batchwright.difficulty import compression
from batchwright.sources import index_shard

index_shard(*sys.argv[1:], measure="words", scores={"compression": compression})
"""


@pytest.mark.slow
def test_the_file_is_the_same_byte_for_byte_in_every_process(write, tmp_path):
    path = write("data.parquet", {"text": TEXTS * 5_000})
    index_shard(path, tmp_path / "here", measure="words", scores={"compression": compression})
    for seed in ("1", "2"):
        subprocess.run(
            [sys.executable, "-c", CODE, str(path), str(tmp_path / seed)],
            env=os.environ
            | {"PYTHONPATH": str(SOURCE), "PYTHONHASHSEED": seed, "TZ": "Asia/Tokyo"},
            check=True,
            timeout=PATIENCE,
        )
    contents = {(tmp_path / name).read_bytes() for name in ("here", "1", "2")}
    assert len(contents) == 1


def test_a_shard_without_rows_is_one_of_no_samples(write, tmp_path):
    pa = pytest.importorskip("pyarrow")
    path, file = tmp_path / "empty.parquet", tmp_path / "index.parquet"
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), path)
    facts = index_shard(path, file, measure="words", scores={"size": characters})
    assert (facts.num_rows, facts.values.size, facts.counts.size) == (0, 0, 0)
    assert facts_of(file).text() == facts.text()
    assert column_of(file, "order", facts.fingerprint, 0).tolist() == []


@pytest.mark.parametrize(
    ("lengths", "words"),
    [
        ([3, 0, 4], ["1 of 3 rows", "row 1", "empty"]),
        ([3, -2, 4], ["row 1", "-2", "at least 1"]),
        ([3, 5, 2**32], ["row 2", "4294967296", "2**32"]),
        ([3.5, 2.0], ["3.5"]),
        ([np.nan, 2.0], ["row 0", "missing"]),
    ],
)
def test_lengths_that_are_none_are_refused_by_row(tmp_path, lengths, words):
    np.save(tmp_path / "shard.npy", np.array(lengths))
    with pytest.raises(LengthsError) as raised:
        index_shard(tmp_path / "shard.npy", tmp_path / "index.parquet")
    assert [word for word in words if word not in str(raised.value)] == []
    assert str(tmp_path / "shard.npy") in str(raised.value)
    assert not (tmp_path / "index.parquet").exists()


@pytest.mark.parametrize(
    ("scores", "error", "words"),
    [
        ({"length": characters}, SourceError, "'length'"),
        ({"order": characters}, SourceError, "'order'"),
        ({"num_tokens": characters}, SourceError, "'num_tokens'"),
        ({"": characters}, SourceError, "Choose another"),
        ({"bad": lambda texts: [np.nan] * len(texts)}, LengthsError, "'bad': the metric's score"),
        ({"bad": lambda texts: [1.0]}, LengthsError, "'bad': the metric returned"),
        ({"bad": lambda texts: [1e300] * len(texts)}, LengthsError, "float32"),
    ],
)
def test_scores_that_cannot_be_kept_are_refused(write, tmp_path, scores, error, words):
    path = write("data.jsonl", {"text": TEXTS})
    with pytest.raises(error) as raised:
        index_shard(path, tmp_path / "index.parquet", measure="words", scores=scores)
    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"measure": "sighs"}, SourceError),
        ({"measure": "tokens"}, SourceError),
        ({"measure": "words", "empty": "drop"}, SourceError),
        ({"column": "txet", "measure": "words"}, ColumnNotFoundError),
    ],
)
def test_questions_that_make_no_sense_are_refused(write, tmp_path, options, error):
    path = write("data.jsonl", {"text": TEXTS})
    with pytest.raises(error):
        index_shard(path, tmp_path / "index.parquet", **options)


def test_what_is_not_one_file_is_refused(tmp_path):
    with pytest.raises(SourceNotFoundError, match=r"none\.parquet"):
        index_shard(tmp_path / "none.parquet", tmp_path / "index.parquet")
    with pytest.raises(SourceError, match="index_shards"):
        index_shard(tmp_path, tmp_path / "index.parquet")


def test_a_shard_that_is_written_to_meanwhile_is_refused(write, tmp_path):
    path = write("data.jsonl", {"text": TEXTS})

    def meddles(texts):
        path.write_text('{"text": "another"}\n', "utf-8")
        return characters(texts)

    with pytest.raises(SourceError, match="changed while it was measured"):
        index_shard(path, tmp_path / "i.parquet", measure="words", scores={"size": meddles})
    assert not (tmp_path / "i.parquet").exists()


def test_a_file_that_cannot_be_written_is_named(write, tmp_path):
    path = write("data.jsonl", {"text": TEXTS})
    (tmp_path / "folder").mkdir()
    for place in (tmp_path / "folder", path / "below"):
        with pytest.raises(SourceError, match=place.name):
            index_shard(path, place, measure="words")
