"""CSV as people write it: no row is lost, whatever it holds."""

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchwright import sources
from batchwright.errors import LengthsError, SourceError
from batchwright.sources import text_files


def read(tmp_path, text: str | bytes, name: str = "data.csv", **options):
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return sources.read_lengths(path, **options).tolist()


@pytest.mark.parametrize("text", ["n\n1\n2\n", "n\r\n1\r\n2", '\ufeff"n"\n 1\n"2"\n'])
def test_line_ends_quotes_and_byte_order_mark(tmp_path, text: str) -> None:
    assert read(tmp_path, text) == [1, 2]


def test_floats_and_exponents(tmp_path) -> None:
    assert read(tmp_path, "n\n1\n2.0\n3e0\n") == [1, 2, 3]


def test_rows_after_one_that_is_no_number_are_not_read_as_numbers(tmp_path, monkeypatch) -> None:
    cast, rows = pc.cast, []
    monkeypatch.setattr(
        pc, "cast", lambda values, *how: rows.append(len(values)) or cast(values, *how)
    )
    with pytest.raises(SourceError, match="row 0 of 'n' .* is 'x', which is not a number"):
        read(tmp_path, "n\n" + "x\n" * 100_000)
    assert sum(rows) < 30_000


def test_text_that_looks_like_numbers_is_measured_when_asked(tmp_path) -> None:
    assert read(tmp_path, "n\n12\n345\n", measure="characters") == [2, 3]


def test_text_that_looks_like_null_is_text(tmp_path) -> None:
    text = "text,id\nNA,1\nnull,2\n,3\n"
    assert read(tmp_path, text, measure="characters") == [2, 4, 0]


@pytest.mark.parametrize(
    ("text", "row", "message"),
    [
        ("n\n1\n2\n3.5\n", 2, "is 3.5"),
        ("n\ninf\n", 0, "is inf"),
        ("n\n1\n99999999999999999999\n", 1, "is 1e\\+20"),
    ],
)
def test_a_bad_number_is_named(tmp_path, text: str, row: int, message: str) -> None:
    with pytest.raises(LengthsError, match=f"row {row} of 'n' .* {message}"):
        read(tmp_path, text, column="n")


@pytest.mark.parametrize(
    "text", ["n,m\n1,1\n,1\n", "n\n1\n\n", "n\n1\n \n", "n\n1\nnan\n"]
)  # pyarrow alone would skip an empty line
def test_a_missing_number_is_named(tmp_path, text: str) -> None:
    with pytest.raises(LengthsError, match="1 of 2 rows of 'n' is missing, row 1 "):
        read(tmp_path, text, column="n")


@pytest.mark.parametrize("word", ["abc", "1_000", "NA", "1,5"])
def test_what_is_no_number_is_named(tmp_path, word: str) -> None:
    with pytest.raises(SourceError, match=f"row 1 of 'n' .* is '{word}', which is not a number"):
        read(tmp_path, f'n\n1\n"{word}"\n')


@pytest.mark.parametrize(
    "text", ['a,b\n1,"x\ny\n3,4\n', 'a\n"', 'a,b\n1,"never closed', 'a\n"x\n' + "y\n" * 9]
)
def test_a_quote_that_is_never_closed_swallows_nothing(tmp_path, text: str) -> None:
    with pytest.raises(SourceError, match="quotation mark was never closed"):
        read(tmp_path, text, column=text[0] if "b" not in text[:3] else "b", measure="bytes")


def test_a_row_longer_than_a_block(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(text_files, "_BLOCK_BYTES", 1 << 18)
    monkeypatch.setattr(text_files, "_ROW_BYTES", 1 << 20)
    rows = "".join(f"{i},short\n" for i in range(100_000))
    text = "a,text\n" + rows + "1," + "x" * (3 << 20) + "\n"
    with pytest.raises(SourceError, match="row of more than 1 MiB"):
        read(tmp_path, text, measure="bytes")


def test_many_blocks(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(text_files, "_BLOCK_BYTES", 4096)
    values = list(range(20_000))
    text = "id,n\n" + "".join(f"x,{value}\n" for value in values)
    assert read(tmp_path, text, column="n") == values
    with pytest.raises(LengthsError, match=r"row 20,000 of 'n' .* is 0\.5"):
        read(tmp_path, text + "x,0.5\n", column="n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n1,2,3\n", "Expected 2 columns, got 3"),
        ("a,b\n1,2\n1", "Expected 2 columns, got 1"),
        (b"a\n\xff\xfe\n", "invalid UTF8"),
        ("128\n256\n", "first line may be no header"),
        ("a\n", "no rows"),
        ("\n1\n", "no header"),
    ],
)
def test_bad_files(tmp_path, text, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        read(tmp_path, text, column="a" if text[:1] in ("a", b"a") else None)


def test_a_column_named_by_a_number_can_be_asked_for(tmp_path) -> None:
    assert read(tmp_path, "0\n7\n8\n", column="0") == [7, 8]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x1e")),
        min_size=1,
        max_size=20,
    ),
    wide=st.booleans(),
)
def test_any_text_that_pyarrow_writes(tmp_path, texts: list[str], wide: bool) -> None:
    columns = {"text": texts} | ({"id": list(range(len(texts)))} if wide else {})
    pa_csv.write_csv(pa.table(columns), tmp_path / "a.csv")
    lengths = sources.read_lengths(tmp_path / "a.csv", measure="characters", cache=False)
    assert lengths.tolist() == [len(text) for text in texts]
