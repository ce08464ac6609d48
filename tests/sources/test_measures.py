"""Measures against Python's own definitions, and what does not fit."""

import re
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright import sources
from batchwright.errors import LengthsError, SourceError
from batchwright.sources.measures import MEASURES, Measure, measured
from batchwright.sources.table import Place

from .conftest import ALIASES, WITH_COLUMNS, WITH_TYPES

COLUMNS_ONCE = [name for name in WITH_COLUMNS if name not in ALIASES]
TYPES_ONCE = [name for name in WITH_TYPES if name not in ALIASES]

PLACE = Place("data", "text", 0)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SPACED = st.text(
    st.sampled_from("ab é漢 \t\n\r\x0b\x0c\x1c\x1f\x85\xa0\u1680\u2003\u2028\u202f\u3000\u200b")
)


def measure(values, name: str | None) -> list[int]:
    return np.concatenate(list(measured(values, Measure(name), PLACE))).tolist()


@given(st.lists(TEXT | SPACED, min_size=1), st.sampled_from([pa.string(), pa.large_string()]))
def test_text_measures_are_those_of_python(texts: list[str], type_) -> None:
    values = pa.array(texts, type_)
    assert measure(values, "characters") == [len(text) for text in texts]
    assert measure(values, "words") == [len(text.split()) for text in texts]
    assert measure(values, "bytes") == [len(text.encode()) for text in texts]


def test_every_character_separates_words_where_python_says_so() -> None:
    characters = [chr(c) for c in range(sys.maxunicode + 1) if not 0xD800 <= c < 0xE000]
    texts = [f"a{character}b" for character in characters]
    assert measure(pa.array(texts), "words") == [len(text.split()) for text in texts]


@given(st.lists(st.lists(st.integers(0, 9)), min_size=1))
def test_items_are_counted(lists: list[list[int]]) -> None:
    values = pa.array(lists, pa.list_(pa.int8()))
    assert measure(values, "items") == measure(values, None) == [len(items) for items in lists]


@given(st.lists(TEXT, min_size=3), st.data())
def test_a_slice_is_measured_as_a_slice(texts: list[str], data) -> None:
    start = data.draw(st.integers(0, len(texts) - 1))
    for name, reference in (("characters", len), ("words", lambda text: len(text.split()))):
        assert measure(pa.array(texts)[start:], name) == [reference(t) for t in texts[start:]]


def test_many_pieces_keep_their_order() -> None:
    texts = ["x" * (i % 7) for i in range(200_000)]
    assert measure(pa.array(texts), "characters") == [len(text) for text in texts]


@pytest.mark.parametrize("name", TYPES_ONCE)
def test_a_measure_that_does_not_fit_is_refused(write, name) -> None:
    for values, asked, message in (
        (
            ["a b"],
            None,
            r"holds text: pass measure='characters' or 'words' or 'bytes' or 'tokens'\.$",
        ),
        (["a b"], "items", "holds text: pass measure=.*not 'items'"),
        ([[1, 2]], "words", "holds lists: pass measure=None or 'items', not 'words'"),
        ([3], "words", "holds numbers: pass measure=None or 'milliseconds', not 'words'"),
        ([3.0], "items", "holds numbers"),
    ):
        with pytest.raises(SourceError, match=message):
            sources.read_lengths(write(name, {"c": values}), measure=asked)


def test_binary_columns_are_measured_in_bytes(write) -> None:
    path = write("data.parquet", {"audio": [b"abc", b"", b"\xff"]})
    assert sources.read_lengths(path, measure="bytes").tolist() == [3, 0, 1]
    with pytest.raises(SourceError, match=r"holds binary: pass measure='bytes'"):
        sources.read_lengths(path)


def test_an_unknown_measure_lists_those_that_there_are(tmp_path) -> None:
    with pytest.raises(SourceError) as caught:
        sources.read_lengths(tmp_path / "missing.csv", measure="letters")
    assert all(repr(name) in str(caught.value) for name in MEASURES)


@pytest.mark.parametrize("name", TYPES_ONCE)
def test_the_first_null_is_named(write, name: str) -> None:
    columns = {
        "integers": pa.array([1, None, 3] * 9),
        "floats": pa.array([1.0, None, 3.0] * 9),
        "texts": ["a", None, "b"] * 9,
        "lists": [[1], None, []] * 9,
        "nothing": pa.nulls(27),
    }
    path = write(name, columns)
    for column in columns:
        first = "0" if column == "nothing" else "1"
        asked = "words" if column == "texts" else None
        with pytest.raises(LengthsError, match=f"rows of '{column}' are missing, .* row {first} "):
            sources.read_lengths(path, column=column, measure=asked)


@pytest.mark.parametrize("name", COLUMNS_ONCE)
def test_the_first_number_that_is_not_whole_is_named(write, name: str) -> None:
    for bad in (0.5, -0.1, float("inf"), -float("inf"), 1e300):
        values = [float(i) for i in range(23)]
        values[20] = bad
        said = f"row 20 of 'score' .* is {re.escape(f'{bad:g}')}"
        with pytest.raises(LengthsError, match=said):
            sources.read_lengths(write(name, {"score": values}))


def test_zero_and_negative_lengths_are_handed_on(write) -> None:
    assert sources.read_lengths(write("data.csv", {"n": [0, -1, 2]})).tolist() == [0, -1, 2]
    path = write("data.parquet", {"text": ["", "a"]})
    assert sources.read_lengths(path, measure="words").tolist() == [0, 1]
