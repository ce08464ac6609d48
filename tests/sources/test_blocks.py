"""Text in blocks of whole rows: bounded, whatever the file holds, and right wherever it is cut."""

import csv
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchwright import sources
from batchwright.difficulty import score
from batchwright.errors import LengthsError, SourceError
from batchwright.sources import files, text_files

CODECS = ["", *text_files.CODECS]


def write(path: Path, content: bytes) -> Path:
    codec = text_files.CODECS.get(path.suffix)
    if codec is None:
        path.write_bytes(content)
    else:
        with pa.CompressedOutputStream(str(path), codec) as file:
            file.write(content)
    return path


def count(texts: list[str]) -> list[int]:
    return [len(text) for text in texts]


VALUE = st.text(st.sampled_from('ab",\r\n\t é'), max_size=6)


@pytest.mark.slow
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(VALUE, VALUE), min_size=1, max_size=8),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    block=st.integers(1, 40),
)
def test_rows_wherever_blocks_end(tmp_path, monkeypatch, rows, end, block) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=end, quoting=csv.QUOTE_ALL).writerows([("a", "b"), *rows])
    (tmp_path / "a.csv").write_text(text.getvalue(), newline="")
    monkeypatch.setattr(text_files, "_BLOCK_BYTES", block)
    for k, column in enumerate("ab"):
        found = sources.read_lengths(
            tmp_path / "a.csv", column=column, measure="characters", cache=False
        )
        assert found.tolist() == [len(row[k]) for row in rows]


@pytest.mark.slow
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(st.sampled_from('a",\n\r'), max_size=30).filter(lambda text: "\r" not in text),
    block=st.integers(1, 12),
)
def test_any_rows_are_those_of_the_parser(tmp_path, monkeypatch, text, block) -> None:
    """Quotation marks may stand anywhere: what a block is must not depend on where it ends."""
    (tmp_path / "a.csv").write_text(f"x\n{text}", newline="")
    found = []
    for size in (1 << 20, block):
        monkeypatch.setattr(text_files, "_BLOCK_BYTES", size)
        try:
            found.append(
                sources.read_lengths(tmp_path / "a.csv", measure="bytes", cache=False).tolist()
            )
        except SourceError as error:
            found.append("closed" if "never closed" in str(error) else "refused")
    assert found[0] == found[1]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", CODECS)
def test_one_line_without_end(tmp_path, suffix: str) -> None:
    line = b"a" * (33 << 20)
    kinds = (
        ("a.jsonl", b'{"length": "' + line, sources.read_lengths),
        ("a.csv", b"length\n" + line, sources.read_lengths),
        ("b.csv", b'length\n"' + line, sources.read_lengths),
        ("c.csv", line, sources.read_lengths),
        ("a.txt", line, lambda path: score(path, count)),
    )
    # What unpacks a file does not know its kind.
    for name, content, read in kinds if not suffix else (kinds[0], kinds[2]):
        path = write(tmp_path / (name + suffix), content)
        with pytest.raises(SourceError, match="has a row of more than 16 MiB") as caught:
            read(path)
        assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("size", [1, 40])
def test_long_lines_are_read(tmp_path, monkeypatch, size: int) -> None:
    monkeypatch.setattr(text_files, "_BLOCK_BYTES", 1 << 16)
    texts = ["a" * (size << 15), "b", "a" * (size << 15)]
    (tmp_path / "a.csv").write_text("".join(f"{text}\n" for text in ["text", *texts]))
    (tmp_path / "a.jsonl").write_text("".join(f'{{"text": "{text}"}}\n' for text in texts))
    for name in ("a.csv", "a.jsonl"):
        assert sources.read_lengths(tmp_path / name, measure="bytes").tolist() == list(
            map(len, texts)
        )


@pytest.mark.parametrize("suffix", CODECS[1:])
def test_what_unpacks_without_end_is_refused(tmp_path, monkeypatch, suffix: str) -> None:
    monkeypatch.setattr(text_files, "_ALWAYS_UNPACKED", 1 << 20)
    monkeypatch.setattr(text_files, "_MOST_UNPACKED", 20)
    monkeypatch.setattr(text_files, "_BLOCK_BYTES", 1 << 16)
    path = write(tmp_path / f"a.csv{suffix}", b"length\n" + b"512\n" * (1 << 20))
    with pytest.raises(SourceError, match="unpacks to more than 1 MiB"):
        sources.read_lengths(path)
    random = np.random.default_rng(0).integers(1, 10**9, 1 << 18)
    path = write(tmp_path / f"b.csv{suffix}", "\n".join(["n", *map(str, random)]).encode())
    assert sources.read_lengths(path).tolist() == random.tolist()


ERRORS = """
import sys
from batchwright import sources
for path in sys.argv[1:]:
    for _ in range(3):
        try:
            sources.read_lengths(path, column="length", cache=False)
        except ValueError as error:
            print(type(error).__name__)
print("alive")
"""


@pytest.mark.slow
def test_an_error_in_compressed_text_never_ends_the_process(tmp_path) -> None:
    rows = b"5,abcdefgh\n" * 1_000_000
    head, paths = b"length,t\n", []
    for name, content in {
        "first": head + b"x,y\n" + rows,
        "middle": head + rows + b"x,y\n" + rows,
        "empty": head + b",y\n" + rows,
        "wider": head + rows[:110_000] + b"5,6,7\n" + rows,
        "long": head + b"1," + b"a" * (70 << 20) + b"\n" + rows,
    }.items():
        paths += [write(tmp_path / f"{name}.csv{suffix}", content) for suffix in (".gz", ".lz4")]
    damaged = bytearray(write(tmp_path / "damaged.csv.gz", head + rows * 2).read_bytes())
    damaged[-20_000:-19_000] = bytes(1000)
    paths.append(tmp_path / "damaged.csv.gz")
    paths[-1].write_bytes(damaged)
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{ERRORS}", *paths],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split()[-1] == "alive"
    assert len(done.stdout.split()) == 3 * len(paths) + 1


def test_errors_count_rows_through_blocks(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(text_files, "_BLOCK_BYTES", 1000)
    (tmp_path / "a.csv").write_text("a,b\n" + "1,2\n" * 5000 + "1\n")
    with pytest.raises(SourceError, match="Row #5002: Expected 2 columns, got 1"):
        sources.read_lengths(tmp_path / "a.csv", column="a")
    (tmp_path / "a.csv").write_text("a,b\n" + "1,2\n" * 5000 + "x,2\n")
    with pytest.raises(SourceError, match="row 5,000 of 'a'"):
        sources.read_lengths(tmp_path / "a.csv", column="a")


def test_a_column_that_stands_twice_and_one_beside_it(tmp_path) -> None:
    (tmp_path / "a.csv").write_text("a,b,a\n1,2,3\n")
    assert sources.read_lengths(tmp_path / "a.csv", column="b").tolist() == [2]
    with pytest.raises(SourceError, match="2 columns named 'a'"):
        sources.read_lengths(tmp_path / "a.csv", column="a")


def test_text_with_a_byte_order_mark_and_carriage_returns(tmp_path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfab\r\n\x00c\r\n\r\n")
    assert score(tmp_path / "a.txt", count).tolist() == [2, 2, 0]
    (tmp_path / "b.csv").write_bytes(b"\xef\xbb\xbfn\r\n\x001\r\n")
    with pytest.raises((SourceError, LengthsError), match="row 0"):
        sources.read_lengths(tmp_path / "b.csv")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.csv.gz", "a.txt.gz", "a.npy", "a.parquet"])
def test_rows_without_end(tmp_path, monkeypatch, name: str) -> None:
    monkeypatch.setattr(files, "_ALWAYS_BELIEVED", 1000)
    monkeypatch.setattr(files, "_ROWS_PER_COLUMNAR_BYTE", 200)
    path = tmp_path / name
    values = np.ones(10_000_000, dtype=np.int8)
    if name == "a.npy":
        np.save(path, values)
        assert len(sources.read_lengths(path)) == len(values)
        return
    if name == "a.parquet":
        pq.write_table(pa.table({"length": values}), path)
    else:
        write(path, b"1\n" * len(values))
    read = {"a.txt.gz": lambda: score(path, count), "a.parquet": lambda: sources.read_lengths(path)}
    with pytest.raises(SourceError, match="unpacks to more than .* rows"):
        read.get(name, lambda: sources.read_lengths(path, column="1"))()
