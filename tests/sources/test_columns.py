"""Which column is taken, and what is said when none can be."""

import pytest

from batchwright import sources
from batchwright.errors import ColumnNotFoundError, SourceError
from batchwright.sources.columns import LENGTH_COLUMNS, choose

from .conftest import WITH_COLUMNS


@pytest.mark.parametrize("known", LENGTH_COLUMNS)
def test_a_known_name_is_taken_among_several(known: str) -> None:
    assert choose(["id", known, "input_ids"], None, source="x") == known


def test_the_measure_decides_what_is_looked_for() -> None:
    names = ["text", "length", "input_ids"]
    assert choose(names, None, source="x") == "length"
    assert choose(names, None, source="x", measure="items") == "input_ids"
    assert choose(names, None, source="x", measure="words") == "text"
    assert choose(["id", "input_ids"], None, source="x") == "input_ids"


@pytest.mark.parametrize("names", [["a", "b"], ["length", "num_tokens", "input_ids"]])
def test_what_is_not_clear_is_asked(names: list[str]) -> None:
    with pytest.raises(SourceError, match="say which column") as caught:
        choose(names, None, source="data.csv")
    assert all(repr(name) in str(caught.value) for name in names)


@pytest.mark.parametrize("name", WITH_COLUMNS)
def test_an_unknown_column_is_answered_with_the_nearest(write, name: str) -> None:
    path = write(name, {"text": ["a"], "length": [1]})
    with pytest.raises(ColumnNotFoundError, match="Did you mean 'length'") as caught:
        sources.read_lengths(path, column="length_")
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "It has 'text', 'length'." in message
    assert isinstance(caught.value, KeyError)


def test_an_unknown_column_of_an_array(write) -> None:
    with pytest.raises(ColumnNotFoundError, match="no column 'length'"):
        sources.read_lengths(write("data.npy", {"length": [1]}), column="length")


def test_of_hundreds_of_columns_the_first_are_listed() -> None:
    with pytest.raises(ColumnNotFoundError, match="'feature_0', 'feature_1', .*…") as caught:
        choose([f"feature_{i}" for i in range(200)], "text", source="x")
    assert len(str(caught.value)) < 500
