"""Files that are missing, empty, cut off or damaged: one line that names them, or the truth."""

import os

import numpy as np
import pytest

from batchwright import sources
from batchwright.errors import BatchwrightError, SourceError, SourceNotFoundError

from .conftest import ALIASES, WRITERS

SUFFIXES = (".npy", ".parquet", ".arrow", ".feather", ".ipc", ".jsonl", ".ndjson", ".csv", ".tsv")
# Formats that cannot be cut anywhere without a trace. A text format can: between two lines, or
# inside its last number.
SELF_DELIMITING = [
    name for name in WRITERS if not name.endswith((".csv", ".tsv", "jsonl", *ALIASES))
]
COLUMNS = {"length": list(range(100, 130)), "text": [f"{'to be ' * i}é" for i in range(30)]}


def read(path, **options) -> list[int]:
    return sources.read_lengths(path, cache=False, **options).tolist()


def assert_one_clear_line(error: BaseException, path) -> None:
    message = str(error)
    assert message.startswith(str(path)), message
    assert "\n" not in message
    assert 20 < len(message) < 600, message


@pytest.mark.parametrize("name", ["missing.parquet", "missing", "missing/", "a/b.csv"])
def test_a_missing_file(tmp_path, name: str) -> None:
    with pytest.raises(SourceNotFoundError, match="no file or directory") as caught:
        sources.read_lengths(tmp_path / name)
    assert isinstance(caught.value, FileNotFoundError)
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("name", ["data.txt", "data", "data.xlsx", "data.parquet.gz", "data.gz"])
def test_an_unknown_kind_lists_the_known_ones(tmp_path, name: str) -> None:
    (tmp_path / name).write_text("1\n")
    with pytest.raises(SourceError, match="unknown kind") as caught:
        sources.read_lengths(tmp_path / name)
    assert all(suffix in str(caught.value) for suffix in SUFFIXES)


@pytest.mark.parametrize("source", [None, 5, [1, 2], np.arange(3), b"data.csv"])
def test_what_is_no_source(source) -> None:
    with pytest.raises(SourceError, match="pass a path or a datasets\\.Dataset"):
        sources.read_lengths(source)


@pytest.mark.parametrize("name", WRITERS)
def test_an_empty_file(tmp_path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(SourceError, match="is empty: it has 0 bytes"):
        sources.read_lengths(tmp_path / name)


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_without_rows(write, name: str) -> None:
    path = write(name, {"length": np.array([], dtype=np.int64)})
    with pytest.raises(
        SourceError, match="no rows" if "json" not in name else "is empty|no columns"
    ):
        sources.read_lengths(path)


@pytest.mark.parametrize("name", WRITERS)
def test_something_else_under_the_suffix(tmp_path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    with pytest.raises(SourceError) as caught:
        sources.read_lengths(path, column=None if name.endswith(".npy") else "length")
    assert_one_clear_line(caught.value, path)


@pytest.mark.parametrize("name", SELF_DELIMITING)
def test_a_truncated_file_is_refused_wherever_it_is_cut(write, name: str) -> None:
    path = write(name, COLUMNS)
    whole = path.read_bytes()
    cuts = {*range(1, 200), *range(len(whole) - 200, len(whole)), *range(1, len(whole), 97)}
    for cut in sorted(cut for cut in cuts if 0 < cut < len(whole)):
        path.write_bytes(whole[:cut])
        with pytest.raises(SourceError) as caught:
            read(path)
        assert_one_clear_line(caught.value, path)
    path.write_bytes(whole)
    assert read(path) == COLUMNS["length"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["data.jsonl", "data.csv"])
def test_a_truncated_text_file_is_refused_or_read_up_to_the_cut(write, name: str) -> None:
    path = write(name, COLUMNS)
    whole = path.read_bytes()
    expected = [len(text) for text in COLUMNS["text"]]
    refused = 0
    cuts = range(1, len(whole), 7)
    for cut in cuts:
        path.write_bytes(whole[:cut])
        try:
            found = read(path, column="text", measure="characters")
        except BatchwrightError as error:
            assert_one_clear_line(error, path)
            refused += 1
        else:
            if whole[:cut].endswith(b","):  # what is left of the row is one with an empty text
                assert found.pop() == 0
            else:
                assert whole[:cut].endswith(b"\n") or whole[cut : cut + 1] == b"\n"
            assert found == expected[: len(found)]
    assert refused > 0.9 * len(cuts)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in WRITERS if name not in ("data.npy", *ALIASES)])
def test_a_damaged_file_is_refused_or_read_without_a_crash(write, name: str) -> None:
    path = write(name, COLUMNS)
    whole = path.read_bytes()
    rng = np.random.default_rng(len(name))
    for _ in range(150):
        damaged = np.frombuffer(whole, dtype=np.uint8).copy()
        count = rng.integers(1, 5)
        damaged[rng.integers(len(whole), size=count)] = rng.integers(256, size=count)
        path.write_bytes(damaged.tobytes())
        for options in ({"column": "length"}, {"column": "text", "measure": "words"}):
            try:
                sources.read_lengths(path, cache=False, **options)
            except BatchwrightError as error:
                assert_one_clear_line(error, path)


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(SourceError, match="not a regular file"):
        sources.read_lengths(tmp_path / "pipe.csv")


@pytest.mark.parametrize("last", ["null", " null", "\tnull\n", "[1]", "3"])
def test_a_line_that_is_no_object_is_refused_wherever_blocks_end(tmp_path, last: str) -> None:
    # The last line without a newline is a block of its own.
    path = tmp_path / "a.jsonl"
    path.write_text('{"length": 3}\n' * 3 + last)
    with pytest.raises(SourceError, match="line 4: expected an object") as caught:
        read(path)
    assert_one_clear_line(caught.value, path)


@pytest.mark.parametrize(("dtype", "shape"), [("|V0", (-1,)), ("<i8", (-3,)), ("|S0", (4,))])
@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_an_impossible_npy_header(tmp_path, dtype: str, shape, version) -> None:
    path = tmp_path / "a.npy"
    header = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode() + b"\n"
    size = len(header).to_bytes(2 if version == (1, 0) else 4, "little")
    path.write_bytes(b"\x93NUMPY" + bytes(version) + size + header + bytes(64))
    with pytest.raises(SourceError) as caught:
        read(path)
    assert_one_clear_line(caught.value, path)


def test_signalling_numbers_that_are_no_lengths(tmp_path) -> None:
    path = tmp_path / "a.npy"
    values = np.ones(3, np.longdouble)
    values.view(np.uint8)[:10] = [1, 0, 0, 0, 0, 0, 0, 0x80, 0xFF, 0x7F]  # a signalling NaN
    np.save(path, values)
    with pytest.raises(BatchwrightError, match="1 of 3 rows of 'values' is missing"):
        read(path)
