"""Indexes of tokenised corpora: lengths as they were written, or a refusal."""

import json
import struct

import numpy as np
import pytest

from batchwright import sources
from batchwright.cli import main
from batchwright.errors import SourceError

from .token_files import write_datatrove, write_fairseq, write_megatron

LISTS = [[token] * (1 + token % 7) for token in range(40)]
LENGTHS = [len(row) for row in LISTS]


def read(path, **options):
    return sources.read_lengths(path, **options).tolist()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "int64"])
@pytest.mark.parametrize("modes", [False, True])
def test_megatron(tmp_path, dtype, modes):
    write_megatron(tmp_path / "a.idx", LISTS, dtype=dtype, modes=modes)
    lengths = sources.read_lengths(tmp_path / "a.idx")
    assert lengths.dtype == np.int32
    assert lengths.tolist() == LENGTHS


def test_documents_of_several_sequences(tmp_path):
    write_megatron(tmp_path / "a.idx", LISTS, documents=[0, 3, 4, 4, 40])
    expected = [sum(LENGTHS[:3]), LENGTHS[3], 0, sum(LENGTHS[4:])]
    assert read(tmp_path / "a.idx", column="document_length") == expected
    assert read(tmp_path / "a.idx") == LENGTHS


def test_fairseq_has_no_documents(tmp_path):
    write_fairseq(tmp_path / "a.idx", LISTS)
    assert read(tmp_path / "a.idx") == LENGTHS
    with pytest.raises(SourceError, match="no column 'document_length'"):
        read(tmp_path / "a.idx", column="document_length")


@pytest.mark.parametrize("item", [2, 4])
def test_datatrove(tmp_path, item):
    write_datatrove(tmp_path / "a.ds", LISTS, item=item)
    assert read(tmp_path / "a.ds.index") == LENGTHS
    (tmp_path / "a.ds").unlink()
    assert read(tmp_path / "a.ds.index") == LENGTHS


def test_blocks_follow_one_another(tmp_path, monkeypatch):
    monkeypatch.setattr("batchwright.sources.token_files._ROWS", 7)
    write_datatrove(tmp_path / "a.ds", LISTS)
    write_megatron(tmp_path / "a.idx", LISTS, documents=[0, 3, 20, 40])
    assert read(tmp_path / "a.ds.index") == read(tmp_path / "a.idx") == LENGTHS
    assert sum(read(tmp_path / "a.idx", column="document_length")) == sum(LENGTHS)


def test_a_folder_is_read_in_the_order_of_names(tmp_path):
    for number, lists in enumerate((LISTS, LISTS[:5])):
        write_datatrove(tmp_path / f"{number}_shuffled.ds", lists)
        (tmp_path / f"{number}_shuffled.ds.metadata").write_text("gpt2|2\n160\n160 T")
    assert read(tmp_path) == LENGTHS + LENGTHS[:5]


def test_an_index_of_lines_is_no_index_of_megatron(tmp_path):
    (tmp_path / "cuts.jsonl").write_text('{"length": 3}\n')
    (tmp_path / "cuts.jsonl.idx").write_bytes(b"\0" * 16)
    assert read(tmp_path) == [3]
    with pytest.raises(SourceError, match="unknown kind"):
        read(tmp_path / "cuts.jsonl.idx")


@pytest.mark.parametrize("name", ["a.idx", "a.ds.index"])
def test_the_command_line_plans_them(tmp_path, name, capsys):
    write_megatron(tmp_path / "a.idx", LISTS)
    write_datatrove(tmp_path / "a.ds", LISTS)
    assert main(["plan", str(tmp_path / name), "--max-tokens", "64", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["num_samples"], facts["num_tokens"]) == (40, sum(LENGTHS))
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-1])
    assert main(["plan", str(tmp_path / name), "--max-tokens", "64"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "truncated" in said


@pytest.mark.parametrize("name", ["a.idx", "b.idx", "c.idx", "a.ds.index"])
def test_a_file_that_was_cut_anywhere_is_refused(tmp_path, name):
    write_megatron(tmp_path / "a.idx", LISTS)
    write_fairseq(tmp_path / "b.idx", LISTS)
    write_megatron(tmp_path / "c.idx", LISTS, modes=True)
    write_datatrove(tmp_path / "a.ds", LISTS)
    path = tmp_path / name
    whole = path.read_bytes()
    for cut in (*range(1, 60), *range(60, len(whole), 11), len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(SourceError, match=r"truncated|damaged|is no index of Megatron"):
            read(path)


def crafted(path, place, kind, value):
    content = bytearray(path.read_bytes())
    struct.pack_into(kind, content, place, value)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("place", "kind", "value", "message"),
    [
        (0, "<B", 0, "no index of Megatron: it does not begin with MMIDIDX"),
        (9, "<Q", 2, "is of version 2; expected version 1, and integers"),
        (17, "<B", 0, "tokens of type 0; expected"),
        (17, "<B", 7, r"tokens of type 7 \(floating-point numbers\)"),
        (17, "<B", 4, "sequence 1 of 2 tokens begins at byte 2, not where the one before it ends"),
        (18, "<Q", 0, "has no rows"),
        (18, "<Q", 41, "its header says 41 sequences in 41 documents"),
        (18, "<Q", 2**64 - 1, "its header says 18,446,744,073,709,551,615 sequences"),
        (26, "<Q", 2**60, "in 1,152,921,504,606,846,976 documents"),
        (34, "<i", -1, "sequence 0 of -1 tokens"),
        (38, "<i", 2**31 - 1, "sequence 1 of 2,147,483,647 tokens|sequence 2 of"),
        (34 + 4 * 40, "<q", 2, "sequence 0 of 1 tokens begins at byte 2"),
        (34 + 4 * 40 + 8 * 39, "<q", -(2**63), "sequence 39 of 5 tokens begins"),
    ],
)
def test_a_crafted_megatron_index_is_refused(tmp_path, place, kind, value, message):
    write_megatron(tmp_path / "a.idx", LISTS)
    crafted(tmp_path / "a.idx", place, kind, value)
    with pytest.raises(SourceError, match=message):
        read(tmp_path / "a.idx")


@pytest.mark.parametrize("documents", [[1, 40], [0, 39], [0, 5, 4, 40], [0, 2**40, 40], []])
def test_crafted_documents_are_refused(tmp_path, documents):
    write_megatron(tmp_path / "a.idx", LISTS, documents=documents)
    with pytest.raises(SourceError, match="its documents are not|no column"):
        read(tmp_path / "a.idx", column="document_length")


@pytest.mark.parametrize("row", [0, 7, 39])
@pytest.mark.parametrize("value", [2**40, 2**63, 2**64 - 1])
def test_crafted_ends_of_documents_are_refused(tmp_path, row, value):
    write_datatrove(tmp_path / "a.ds", LISTS)
    crafted(tmp_path / "a.ds.index", 8 * row, "<Q", value)
    with pytest.raises(SourceError, match="ends at|one of them is truncated"):
        read(tmp_path / "a.ds.index")


def test_other_files_of_these_names(tmp_path):
    for name in ("a.idx", "a.ds.index"):
        (tmp_path / name).write_bytes(np.random.default_rng(0).bytes(4096))
        with pytest.raises(SourceError, match="no index of Megatron|damaged"):
            read(tmp_path / name)
