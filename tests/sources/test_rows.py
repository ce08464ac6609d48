"""Samples of Parquet shards, a few of which are in memory."""

import dataclasses
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from torch.utils.data import DataLoader

import batchwright as bw
from batchwright.shard_index import ShardIndex
from batchwright.sources import index_shards
from batchwright.sources.rows import ParquetShards
from batchwright.torch import PlanLoader


@pytest.fixture
def texts():
    rng = np.random.default_rng(0)
    return [
        [" ".join(["word"] * many) for many in rng.integers(1, 40, size).tolist()]
        for size in (30, 50, 20, 40, 60, 10)
    ]


@pytest.fixture
def index(tmp_path, texts):
    names = []
    for number, own in enumerate(texts):
        names.append(str(tmp_path / f"{number}.parquet"))
        pq.write_table(pa.table({"text": own, "row": np.arange(len(own))}), names[-1])
    lengths = [[len(text.split()) for text in own] for own in texts]
    return dataclasses.replace(ShardIndex.build(lengths), names=tuple(names))


def test_samples_are_the_rows_of_all_shards_one_after_the_other(index, texts):
    data = ParquetShards(index, ["text"])
    everything = [text for own in texts for text in own]
    assert len(data) == len(everything)
    order = np.random.default_rng(1).permutation(len(everything)).tolist()
    assert [row["text"] for row in data.__getitems__(order)] == [everything[i] for i in order]
    assert data[31] == {"text": everything[31]}
    for wrong in (-1, len(everything)):
        with pytest.raises(IndexError, match="samples"):
            data[wrong]


def test_few_shards_are_held_and_each_is_read_once_for_a_group(index):
    order = bw.Blocks(open_blocks=2)
    planner = bw.Planner(index, max_tokens=80, order=order)
    data = ParquetShards(index, ["text"], open_shards=4)
    lengths = index.lengths()
    for batch in planner(0):
        rows = data.__getitems__(batch)
        assert [len(row["text"].split()) for row in rows] == lengths[batch].tolist()
        assert len(data._open) <= 4
    assert data.reads == index.num_shards
    fewer = ParquetShards(index, ["text"], open_shards=1)
    fewer.__getitems__([0, 31, 0])
    assert len(fewer._open) == 1


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loaders_take_it(index, num_workers):
    planner = bw.Planner(index, max_tokens=80, order=bw.Blocks(open_blocks=2))
    data = ParquetShards(index, open_shards=4)
    loader = PlanLoader(data, planner, collate_fn=list, num_workers=num_workers)
    assert isinstance(loader, DataLoader)
    seen = [row["text"] for batch in loader for row in batch]
    assert sorted(seen) == sorted(row["text"] for row in data.__getitems__(range(len(data))))


def test_a_copy_in_another_process_opens_its_own(index):
    data = ParquetShards(index)
    data[0]
    copy = pickle.loads(pickle.dumps(data))  # noqa: S301 -- written here
    assert not copy._open
    assert copy[0] == data[0]


def test_a_shard_that_is_not_as_it_was_indexed_is_refused_by_name(index, tmp_path):
    pq.write_table(pa.table({"text": ["one"]}), tmp_path / "2.parquet")
    with pytest.raises(bw.errors.SourceError, match=r"2\.parquet has 1 rows, and 20 when"):
        ParquetShards(index)[80]
    (tmp_path / "3.parquet").write_bytes(b"PAR1")
    with pytest.raises(bw.errors.SourceError, match=r"3\.parquet cannot be read as Parquet"):
        ParquetShards(index)[100]
    (tmp_path / "4.parquet").unlink()
    with pytest.raises(bw.errors.SourceNotFoundError, match=r"4\.parquet"):
        ParquetShards(index)[150]
    with pytest.raises(bw.errors.SourceError, match="open_shards"):
        ParquetShards(index, open_shards=0)


def test_a_column_that_is_missing_is_named_beside_those_that_there_are(index):
    with pytest.raises(
        bw.errors.ColumnNotFoundError, match=r"no column 'txet'. Did you mean 'text'"
    ):
        ParquetShards(index, ["text", "txet"])[0]
    with pytest.raises(bw.errors.SourceError, match=r"expected a list, \['text'\]"):
        ParquetShards(index, "text")


def test_a_shard_that_was_rewritten_with_as_many_rows_is_refused(tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    pq.write_table(pa.table({"text": ["one", "two words"]}), corpus / "a.parquet")
    index = index_shards(corpus, tmp_path / "index", measure="words", workers=1)
    data = ParquetShards(index)
    pq.write_table(pa.table({"text": ["two words", "one"]}), corpus / "a.parquet")
    with pytest.raises(bw.errors.SourceError, match=r"a\.parquet was changed after it was indexed"):
        data[0]
