"""JSON lines as people write them: read to the last, or refused with a line number."""

import json

import pytest

from batchwright import sources
from batchwright.errors import LengthsError, SourceError
from batchwright.sources import text_files


def read(tmp_path, text: str | bytes, **options):
    path = tmp_path / "data.jsonl"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return sources.read_lengths(path, **options).tolist()


def test_blank_lines_byte_order_mark_and_no_last_newline(tmp_path) -> None:
    text = '\ufeff\n{"n": 1}\r\n\n  \n{"n": 2}'
    assert read(tmp_path, text) == [1, 2]


def test_other_columns_may_hold_anything(tmp_path) -> None:
    lines = ['{"n": 1, "meta": 1}', '{"meta": "x", "n": 2}', '{"n": 3, "meta": {"a": [1]}}']
    assert read(tmp_path, "\n".join(lines), column="n") == [1, 2, 3]


def test_integers_may_turn_into_floats(tmp_path) -> None:
    head = '{"n": 1}\n' * 3000
    assert read(tmp_path, head + '{"n": 2.0}\n{"n": 3e0}\n') == [1] * 3000 + [2, 3]


def test_lists_may_hold_items_of_several_types(tmp_path) -> None:
    lines = ['{"l": []}', '{"l": [1, "a"]}', '{"l": [null, [2], {"b": 1}]}']
    assert read(tmp_path, "\n".join(lines)) == [0, 2, 3]


def test_text_with_every_kind_of_escape(tmp_path) -> None:
    texts = ["\u2028", "\x00", "\U0001f600", 'q"\\', "\u0085", "2020-01-01", "é"]
    for ensure_ascii in (True, False):
        lines = [json.dumps({"text": t}, ensure_ascii=ensure_ascii) for t in texts]
        found = read(tmp_path, "\n".join(lines), measure="characters", cache=False)
        assert found == [len(text) for text in texts]


def test_columns_are_found_beyond_the_first_line(tmp_path) -> None:
    with pytest.raises(LengthsError, match="of 'n' is missing, row 0 "):
        read(tmp_path, '{"id": 1}\n{"id": 2, "n": 5}\n', column="n")


def test_lines_longer_than_every_block(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(text_files, "_BLOCK_BYTES", 64)
    monkeypatch.setattr(text_files, "_JSON_BYTES", 32)
    monkeypatch.setattr(text_files, "_HEAD_BYTES", 16)
    sizes = [1, 500, 3, 70, 64, 10, 0, 31, 32, 33, 1000]
    lines = [json.dumps({"text": "x" * size}) for size in sizes]
    assert read(tmp_path, "\n".join(lines), measure="bytes") == sizes


def test_many_blocks(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(text_files, "_BLOCK_BYTES", 1000)
    lines = [json.dumps({"n": i, "text": "x" * (i % 50)}) for i in range(3000)]
    assert read(tmp_path, "\n".join(lines), column="n") == list(range(3000))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"n": 1}\n{"n": 2,}\n', "line 2 cannot be read as JSON: Expecting"),
        ('{"n": 1}\n' * 1500 + '{"n": 2', "line 1,501 cannot be read as JSON: Expecting"),
        ('{"n": 1}\n[1]\n', r"line 2: expected an object.*found \[1\]"),
        ("128\n256\n", "line 1: expected an object.*found 128"),
        ('[{"n": 1}]\n', "line 1: expected an object"),
        ('{\n"n": 1\n}\n', "line 1 cannot be read as JSON: Expecting"),
        (b'{"n": "\xff"}\n', "line 1 cannot be read as JSON: .*utf-8"),
        (b'{"n": "a"}\n' * 1500 + b'{"n": "\xff"}\n', "line 1,501 cannot be read as JSON: .*utf-8"),
        ('{"n": 1}\n{"n": "2"}\n', "line 2: 'n' is a str here, but a number before"),
        ('{"n": 1}\n{"n": true}\n', "line 2: 'n' is a bool here"),
        ('{"n": 99999999999999999999}\n', "cannot be read as JSON lines"),
        ('{"n": "\\ud800"}\n', "cannot be read as JSON lines"),
        ('{"n": ' + "[" * 100_000 + "}\n", "line 1 cannot be read as JSON: nested too deeply"),
        ("\n \n", "no columns"),
    ],
)
def test_what_is_wrong_has_a_line_number(tmp_path, text, message: str) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        read(tmp_path, text, column="n" if "no columns" not in message else None)
    assert "\n" not in str(caught.value)


def test_a_column_that_changes_its_kind_between_blocks(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(text_files, "_BLOCK_BYTES", 90)
    with pytest.raises(
        SourceError, match=r"row 2,000 of 'n' .* holds text, but the rows before it hold numbers"
    ):
        read(tmp_path, '{"n": 1}\n' * 2000 + '{"n": "a"}\n' * 20)


def test_nan(tmp_path) -> None:
    with pytest.raises(LengthsError, match=r"1 of 2 rows of 'n' is missing, row 1 "):
        read(tmp_path, '{"n": 1}\n{"n": NaN}\n')
