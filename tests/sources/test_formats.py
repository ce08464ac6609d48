"""The same columns come out of every format."""

import gzip

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchwright import sources
from batchwright.errors import LengthsError

from .conftest import WITH_COLUMNS, WITH_TYPES, WRITERS

TEXTS = [
    "to be or not",
    "to be",
    "",
    'a "quoted"\nline, and a comma',
    "  é 漢\u2003字 ",
    "1",
    "x" * 40,
]
COLUMNS = {
    "text": TEXTS * 4,
    "length": list(range(1, 29)),
    "score": [float(i) for i in range(28)],
    "tokens": [list(range(i % 5)) for i in range(28)],
}


@pytest.mark.parametrize("name", WRITERS)
def test_integers_are_lengths(write, name: str) -> None:
    path = write(name, COLUMNS)
    lengths = sources.read_lengths(path)
    assert lengths.dtype == np.int64
    assert lengths.tolist() == COLUMNS["length"]
    assert sources.read_lengths(str(path)).tolist() == COLUMNS["length"]


@pytest.mark.parametrize("name", WITH_COLUMNS)
def test_whole_floats_are_lengths(write, name: str) -> None:
    lengths = sources.read_lengths(write(name, COLUMNS), column="score")
    assert lengths.dtype == np.int64
    assert lengths.tolist() == list(range(28))


@pytest.mark.parametrize("name", WITH_TYPES)
@pytest.mark.parametrize("measure", [None, "items"])
def test_items_of_lists_are_counted(write, name: str, measure: str | None) -> None:
    lengths = sources.read_lengths(write(name, COLUMNS), column="tokens", measure=measure)
    assert lengths.tolist() == [i % 5 for i in range(28)]


MEASURES = {
    "characters": len,
    "words": lambda text: len(text.split()),
    "bytes": lambda text: len(text.encode()),
}


@pytest.mark.parametrize("name", WITH_COLUMNS)
def test_text_is_measured(write, name: str) -> None:
    path = write(name, COLUMNS)
    for measure, reference in MEASURES.items():
        lengths = sources.read_lengths(path, measure=measure)  # the column is `text`
        assert lengths.dtype == np.int64
        assert lengths.tolist() == [reference(text) for text in COLUMNS["text"]]


@pytest.mark.parametrize("name", ["data.parquet", "data.arrow", "stream.arrow", "data.npy"])
def test_integers_keep_their_dtype(write, name: str) -> None:
    for dtype in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64"):
        lengths = sources.read_lengths(write(name, {"length": np.arange(1, 40, dtype=dtype)}))
        assert lengths.dtype == dtype
        assert lengths.tolist() == list(range(1, 40))


@pytest.mark.parametrize("name", ["data.parquet", "data.arrow", "data.npy"])
def test_uint64_becomes_int64_or_is_refused(write, name: str) -> None:
    lengths = sources.read_lengths(
        write(name, {"length": np.array([1, 2**63 - 1], dtype=np.uint64)})
    )
    assert lengths.dtype == np.int64
    assert lengths.tolist() == [1, 2**63 - 1]
    with pytest.raises(LengthsError, match=r"row 1 of .* is 9223372036854775808"):
        sources.read_lengths(write(name, {"length": np.array([1, 2**63], dtype=np.uint64)}))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(st.integers(1 - 2**63, 2**63 - 1), min_size=1, max_size=40), data=st.data())
def test_any_integers_come_back_as_they_are(write, values: list[int], data) -> None:
    name = data.draw(st.sampled_from(list(WRITERS)))
    lengths = sources.read_lengths(write(name, {"length": values}), cache=False)
    assert lengths.tolist() == values


def test_compressed_in_several_members_is_read_to_the_end(tmp_path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"n": 1}\n') + gzip.compress(b'{"n": 2}\n'))
    assert sources.read_lengths(path).tolist() == [1, 2]


@pytest.mark.parametrize(("suffix", "codec"), [("bz2", "bz2"), ("zst", "zstd"), ("lz4", "lz4")])
def test_every_codec(tmp_path, suffix: str, codec: str) -> None:
    path = tmp_path / f"a.csv.{suffix}"
    with pa.CompressedOutputStream(str(path), codec) as file:
        file.write(b"n\n1\n2\n")
    assert sources.read_lengths(path).tolist() == [1, 2]
