"""The second time is instant, and never wrong."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest

from batchwright import sources
from batchwright.errors import SourceError
from batchwright.sources import files, read
from batchwright.sources.measures import Measure

from .conftest import WITH_COLUMNS

TEXTS = ["to be", "or not", "x"] * 5


@pytest.fixture
def reads(monkeypatch) -> list[Path]:
    """List the files that are opened from here on."""
    opened: list[Path] = []
    real = files.open_file

    def open_file(path: Path, **options):
        opened.append(path)
        return real(path, **options)

    monkeypatch.setattr(files, "open_file", open_file)
    return opened


def kept(directory: Path) -> list[Path]:
    return sorted(directory.iterdir()) if directory.exists() else []


@pytest.mark.parametrize("name", WITH_COLUMNS)
def test_the_second_time_no_file_is_opened(write, name, reads, cache_directory) -> None:
    path = write(name, {"text": TEXTS, "n": list(range(15))})
    first = sources.read_lengths(path, measure="words")
    assert reads == [path]
    second = sources.read_lengths(path, measure="words")
    assert reads == [path]
    assert second.dtype == first.dtype
    assert second.tolist() == first.tolist() == [len(text.split()) for text in TEXTS]
    assert len(kept(cache_directory)) == 1


def test_another_question_is_another_answer(write, reads) -> None:
    path = write("data.jsonl", {"text": TEXTS, "title": TEXTS[::-1]})
    answers = {
        (column, measure): sources.read_lengths(path, column=column, measure=measure).tolist()
        for column in ("text", "title")
        for measure in ("characters", "words", "bytes")
    }
    assert len(reads) == 6
    for (column, measure), answer in answers.items():
        assert sources.read_lengths(path, column=column, measure=measure).tolist() == answer
    assert len(reads) == 6


def test_a_file_of_other_content_is_read_again(write, reads) -> None:
    path = write("data.csv", {"text": ["a", "bb"]})
    assert sources.read_lengths(path, measure="bytes").tolist() == [1, 2]
    write("data.csv", {"text": ["aaa", "bb"]})
    assert sources.read_lengths(path, measure="bytes").tolist() == [3, 2]
    assert len(reads) == 2


@pytest.mark.parametrize("name", WITH_COLUMNS)
def test_other_content_of_the_same_size_and_time_is_read(write, name, reads) -> None:
    for texts in (["a b", "abc"], ["abc", "a b"]):
        path = write(name, {"text": texts})
        os.utime(path, ns=(0, 0))
        found = sources.read_lengths(path, measure="words").tolist()
        assert found == [len(text.split()) for text in texts]


def test_the_same_content_elsewhere_is_not_read_again(write, tmp_path, reads) -> None:
    path = write("data.csv", {"text": TEXTS})
    first = sources.read_lengths(path, measure="words").tolist()
    os.utime(path, ns=(1, 1))
    assert sources.read_lengths(path, measure="words").tolist() == first
    (tmp_path / "copy").mkdir()
    path.rename(tmp_path / "copy" / "other.csv")
    assert sources.read_lengths(tmp_path / "copy" / "other.csv", measure="words").tolist() == first
    assert reads == [path]


def test_shards_in_another_sequence_are_another_source(tmp_path, reads) -> None:
    for names in (("a", "b"), ("b", "a")):
        for name, value in zip(names, (1, 2), strict=True):
            (tmp_path / f"{name}.csv").write_text(f"n\n{value}\n")
        expected = [1, 2] if names == ("a", "b") else [2, 1]
        assert sources.read_lengths(tmp_path).tolist() == expected


def test_a_shard_that_is_added_is_read(write, tmp_path) -> None:
    write("data.jsonl", {"text": ["a"]})
    assert sources.read_lengths(tmp_path, measure="bytes").tolist() == [1]
    write("data.ndjson", {"text": ["bb"]})
    assert sources.read_lengths(tmp_path, measure="bytes").tolist() == [1, 2]


def test_a_relative_path_is_the_same_file(write, reads, monkeypatch) -> None:
    path = write("data.csv", {"n": [1, 2]})
    sources.read_lengths(path)
    monkeypatch.chdir(path.parent)
    assert sources.read_lengths("data.csv").tolist() == [1, 2]
    assert len(reads) == 1


def test_another_tokenizer_in_the_same_file_is_noticed(write, tmp_path, reads) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    path, saved = write("data.csv", {"text": TEXTS}), tmp_path / "tokenizer.json"
    results = []
    split = tokenizers.pre_tokenizers
    for pieces in (split.Whitespace(), split.Split(tokenizers.Regex("."), "isolated")):
        unknown = tokenizers.models.WordLevel({"?": 0}, "?")
        tokenizer = tokenizers.Tokenizer(unknown)
        tokenizer.pre_tokenizer = pieces
        tokenizer.save(str(saved))
        results += [sources.read_lengths(path, tokenizer=saved).tolist() for _ in range(2)]
    assert len(reads) == 2
    assert results[0] == results[1] == [len(text.split()) for text in TEXTS]
    assert results[2] == results[3] == [len(text) for text in TEXTS]


def test_a_function_is_never_cached(write, reads, cache_directory) -> None:
    path = write("data.parquet", {"text": TEXTS})
    assert (
        sources.read_lengths(path, tokenizer=lambda texts: [1 for _ in texts]).tolist() == [1] * 15
    )
    assert (
        sources.read_lengths(path, tokenizer=lambda texts: [2 for _ in texts]).tolist() == [2] * 15
    )
    assert len(reads) == 2
    assert kept(cache_directory) == []


@pytest.mark.parametrize("name", ["data.npy", "data.parquet", "stream.arrow"])
def test_what_is_read_as_quickly_is_not_cached(write, name, cache_directory) -> None:
    sources.read_lengths(write(name, {"length": [1, 2]}))
    assert kept(cache_directory) == []


def test_it_can_be_turned_off_and_put_elsewhere(write, tmp_path, reads, cache_directory) -> None:
    path = write("data.csv", {"n": [1, 2]})
    for _ in range(2):
        assert sources.read_lengths(path, cache=False).tolist() == [1, 2]
    assert len(reads) == 2
    for _ in range(2):
        assert sources.read_lengths(path, cache=tmp_path / "deep" / "er").tolist() == [1, 2]
    assert len(reads) == 3
    assert len(kept(tmp_path / "deep" / "er")) == 1
    assert kept(cache_directory) == []
    with pytest.raises(SourceError, match="is a file; expected a directory"):
        sources.read_lengths(path, cache=path)


def test_where_it_is(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("BATCHWRIGHT_CACHE", "/own")
    assert read.cache_directory(cache=True) == Path("/own")
    monkeypatch.delenv("BATCHWRIGHT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/shared")
    assert read.cache_directory(cache=True) == Path("/shared/batchwright")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert read.cache_directory(cache=True) == Path("/home/someone/.cache/batchwright")
    assert read.cache_directory(cache=False) is None
    assert read.cache_directory(cache="here") == Path("here")


def test_a_damaged_cache_is_ignored_and_rebuilt(write, reads, cache_directory) -> None:
    path = write("data.csv", {"n": list(range(50))})
    sources.read_lengths(path)
    (file,) = kept(cache_directory)
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[200] ^= 1  # one bit of one length
    other = cache_directory / "other.npy"
    np.save(other, np.array([[1.5]]))
    wrong = other.read_bytes()
    other.unlink()
    damages = [whole[:k] for k in range(0, len(whole), 37)]
    header = bytearray(whole)
    header[8] = 40  # how long the header says that it is
    damages += [bytes(flipped), bytes(header), b"\0" * 400, wrong, wrong * 2]
    damages += [b"PK\3\4" + whole[4:], whole + b"\0"]
    for i, damage in enumerate(damages):
        file.write_bytes(damage)
        assert sources.read_lengths(path).tolist() == list(range(50))
        assert len(reads) == i + 2
        assert file.read_bytes() == whole


def test_a_disk_that_cannot_be_written_costs_only_the_cache(write, tmp_path, monkeypatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("BATCHWRIGHT_CACHE", str(tmp_path / "file" / "below"))
    path = write("data.csv", {"n": [1, 2]})
    with pytest.warns(RuntimeWarning, match="could not be kept"):
        assert sources.read_lengths(path).tolist() == [1, 2]


def test_a_file_that_changes_while_it_is_read_is_not_remembered(
    write, cache_directory, monkeypatch
) -> None:
    path = write("data.parquet", {"text": TEXTS})
    changed: list[Path] = []

    def count(texts: list[str]) -> np.ndarray:
        if not changed:
            os.utime(path, ns=(2, 2))
            changed.append(path)
        return np.ones(len(texts), dtype=np.int64)

    # Of what the user can name, only a function can touch the file, and that is never cached.
    monkeypatch.setattr(read, "measure_of", lambda *_: Measure("tokens", count, "content"))
    sources.read_lengths(path, tokenizer="any")
    assert kept(cache_directory) == []
    sources.read_lengths(path, tokenizer="any")
    assert len(kept(cache_directory)) == 1


def test_what_is_no_file_counts_as_absent(write, reads, cache_directory) -> None:
    path = write("data.csv", {"n": [1, 2]})
    sources.read_lengths(path)
    (file,) = kept(cache_directory)
    for make in (os.mkfifo, os.mkdir):
        file.unlink()
        make(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # over a folder nothing can be kept
            assert sources.read_lengths(path).tolist() == [1, 2]
