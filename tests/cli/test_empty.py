"""Rows that are empty or missing: counted, named, and dropped or counted as 1, by every command."""

import json

import numpy as np
import pytest

import batchwright as bw
from batchwright import sources
from batchwright.errors import LengthsError
from tests.cli.command import invoke

pa = pytest.importorskip("pyarrow")

TEXTS = ["a b c", "", "a b", None, "  ", "a b c d e", "a"] * 10
WORDS = [3, 0, 2, 0, 0, 5, 1] * 10


@pytest.fixture
def rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BATCHWRIGHT_CACHE", str(tmp_path / "cache"))
    labels = ["cat", "dog", None, "cat", "dog", "", "cat"] * 10
    lines = [
        json.dumps({"text": text, "label": label}) + "\n"
        for text, label in zip(TEXTS, labels, strict=True)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(lines))
    return "rows.jsonl"


def refused(*given):
    result = invoke(*given)
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    return result.stderr


COUNTED = "rows.jsonl: 30 of 70 rows of 'text' are empty or missing, the first is row 1 "


@pytest.mark.parametrize(
    "command",
    [
        ("plan", "rows.jsonl", "--max-tokens", 8, "--length", "text", "--measure", "words"),
        ("advise", "rows.jsonl", "--text", "text", "--measure", "words"),
    ],
)
def test_they_are_counted_and_the_first_is_named(rows, command):
    for _ in range(2):  # also where lengths come from the cache
        said = refused(*command)
        assert COUNTED in said
        assert "--empty drop|one" in said


def test_a_plan_is_without_them(rows):
    reading = ("--length", "text", "--measure", "words", "--empty")
    given = ("plan", rows, "--max-tokens", 8, *reading)
    result = invoke(*given, "drop", "-o", "p.safetensors", "--json")
    assert COUNTED in result.stderr
    assert "left out" in result.stderr
    shown = json.loads(result.stdout)
    assert shown["dropped_by_reason"] == {"empty": 30}
    assert shown["absent"] in {0, None}
    plan = bw.Plan.load("p.safetensors")
    assert sorted(plan.indices.tolist()) == np.flatnonzero(WORDS).tolist()
    kept = [words for words in WORDS if words]
    assert shown["num_tokens"] == sum(kept)
    assert shown["lengths"]["median"] == np.median(kept)
    assert shown["budgets"]["num_samples"] == len(kept)
    assert "empty" in invoke("inspect", "p.safetensors", rows, *reading, "drop").stdout
    shown = json.loads(invoke(*given, "one", "--json").stdout)
    assert shown["dropped"] == 0


@pytest.mark.slow
def test_advice_is_without_them(rows):
    given = ("advise", rows, "--text", "text", "--measure", "words", "--json", "--empty")
    assert json.loads(invoke(*given, "drop").stdout)["data"]["num_samples"] == 40
    shown = json.loads(invoke(*given, "one").stdout)
    assert shown["data"]["num_tokens"] == 140
    assert shown["data"]["unit"] == "words"


@pytest.mark.slow
def test_missing_labels_are_counted_and_left_out(rows):
    given = ("advise", rows, "--text", "text", "--measure", "words", "--labels", "label", "--json")
    result = invoke(*given, "--empty", "one")
    assert result.exit_code == 2
    assert "20 of 70 rows of 'label' are missing, the first is row 2 " in result.stderr
    result = invoke(*given, "--empty", "drop")
    assert "20 of 70 rows of 'label' are missing" in result.stderr
    shown = json.loads(result.stdout)
    assert shown["labels"]["num_samples"] == 20  # with a text, and a label
    assert shown["data"]["num_samples"] == 40


@pytest.mark.slow
def test_missing_texts_beside_lengths_are_counted_and_left_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [
        json.dumps({"length": 3, "text": text, "label": f"{row % 2}"}) + "\n"
        for row, text in enumerate(TEXTS)
    ]
    (tmp_path / "both.jsonl").write_text("".join(lines))
    given = ("advise", "both.jsonl", "--text", "text", "--labels", "label", "--json")
    missing = "both.jsonl: 10 of 70 rows of 'text' are missing, the first is row 3 "
    assert missing in refused(*given)
    for policy in ("drop", "one"):
        result = invoke(*given, "--empty", policy)
        assert missing in result.stderr
        shown = json.loads(result.stdout)
        assert shown["labels"]["num_samples"] == shown["duplicates"]["num_samples"] == 60
        assert shown["data"]["num_samples"] == 70


@pytest.mark.parametrize("by", ["length", "rarity", "compression"])
def test_scores_are_refused_or_those_of_empty_texts(rows, by):
    measure = ("--measure", "words") if by == "length" else ()
    given = ("score", rows, "--by", by, "-o", "scores.npy", *measure)
    assert "10 of 70 rows of 'text' are missing, the first is row 3 " in refused(*given)
    assert invoke(*given, "--empty", "drop").exit_code == 0
    scores = np.load("scores.npy")
    assert np.isfinite(scores).all()
    assert scores[3] == scores[1]
    if by == "length":
        assert scores.tolist() == WORDS
        invoke(*given, "--empty", "one")
        assert np.load("scores.npy").min() == 1


@pytest.mark.parametrize(
    ("name", "text", "column"),
    [
        ("a.csv", "n,m\n3,1\n,1\n0,1\n4,1\n", "n"),
        ("a.csv", "n,m\n3,1\nnan,1\n0.0,1\n4,1\n", "n"),
        ("a.tsv", "n\tm\n3\t1\n \t1\n0\t1\n4\t1\n", "n"),
        ("a.jsonl", '{"n": 3}\n{"n": null}\n{"n": 0}\n{"n": 4}\n', "n"),
        ("a.jsonl", '{"n": 3}\n{"m": 1}\n{"n": 0}\n{"n": 4}\n', "n"),
        ("a.jsonl", '{"n": 3.0}\n{"n": NaN}\n{"n": 0.0}\n{"n": 4.0}\n', "n"),
        ("a.jsonl", '{"n": [1, 2, 3]}\n{"n": null}\n{"n": []}\n{"n": [1, 2, 3, 4]}\n', "n"),
    ],
)
def test_whatever_is_missing_in_text_files(tmp_path, name, text, column):
    (tmp_path / name).write_text(text)
    check(tmp_path / name, column)


@pytest.mark.parametrize(
    "values",
    [
        pa.array([3, None, 0, 4]),
        pa.array([3.0, None, 0.0, 4.0]),
        pa.array([3.0, float("nan"), 0.0, 4.0]),
        pa.array([[1, 2, 3], None, [], [1, 2, 3, 4]]),
        pa.array(["abc", None, "", "abcd"]),
        pa.array([b"abc", None, b"", b"abcd"]),
        pa.array(["abc", None, "", "abcd"]).dictionary_encode(),
    ],
)
def test_whatever_is_missing_in_columns(tmp_path, values):
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"n": values, "m": [1] * 4}), tmp_path / "a.parquet")
    is_text = values.type in {pa.string(), pa.binary()} or pa.types.is_dictionary(values.type)
    check(tmp_path / "a.parquet", "n", measure="bytes" if is_text else None)


def test_whatever_is_missing_in_arrays(tmp_path):
    np.save(tmp_path / "a.npy", np.array([3.0, np.nan, 0.0, 4.0]))
    check(tmp_path / "a.npy", None)
    np.save(tmp_path / "b.npy", np.array([3, 0], dtype=np.uint8))
    assert sources.read_lengths(tmp_path / "b.npy", empty="one").dtype == np.uint8
    assert sources.read_lengths(tmp_path / "b.npy").tolist() == [3, 0]


def check(path, column, measure=None):
    how = {"column": column, "measure": measure, "cache": False}
    with pytest.raises(LengthsError, match="1 of 4 rows of '.*' is missing, row 1 "):
        sources.read_lengths(path, **how)
    assert sources.read_lengths(path, empty="drop", **how).tolist() == [3, 0, 0, 4]
    assert sources.read_lengths(path, empty="one", **how).tolist() == [3, 1, 1, 4]
    with pytest.raises(bw.errors.SourceError, match="empty='skip'"):
        sources.read_lengths(path, empty="skip", **how)
    result = invoke(
        "plan",
        str(path),
        "--max-tokens",
        9,
        "--length",
        column or "values",
        *(("--measure", measure) if measure else ()),
    )
    assert "2 of 4 rows" in result.stderr
    assert "empty or missing, the first is row 1 " in result.stderr


def test_an_index_has_none(tmp_path):
    bw.LengthIndex.build([3, 4], tmp_path / "a.index")
    result = invoke("plan", str(tmp_path / "a.index"), "--max-tokens", 9, "--empty", "drop")
    assert result.exit_code == 2
    assert "--empty" in result.stderr


def test_where_all_rows_are_empty_none_is_left(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(5, dtype=int))
    for command in (("plan", "--max-tokens", 9), ("advise",)):
        result = invoke(command[0], str(tmp_path / "a.npy"), *command[1:], "--empty", "drop")
        assert result.exit_code == 2
        assert "all 5" in result.stderr
