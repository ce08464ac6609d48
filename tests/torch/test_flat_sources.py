"""Flat tokens out of Arrow, Hugging Face datasets and files: the rows that they hold, in order."""

import pickle

import numpy as np
import pyarrow as pa
import pytest

import batchwright as bw
from batchwright.errors import ColumnNotFoundError, LengthsError, SourceError
from batchwright.torch import FlatTokens
from tests.sources.token_files import write_datatrove, write_fairseq, write_megatron

LISTS = [[1], [2, 3], [], [4, 5, 6], [7, 8]]


def copied(value):
    return pickle.loads(pickle.dumps(value))  # noqa: S301


def rows_of(dataset):
    return [sample["input_ids"].tolist() for sample in dataset]


def assert_holds(dataset, lists):
    for each in (dataset, copied(dataset)):
        assert rows_of(each) == lists
        assert each.lengths.tolist() == [len(row) for row in lists]
        batch = each.__getitems__(list(range(len(lists)))[::-1])
        assert [sample["input_ids"].tolist() for sample in batch] == lists[::-1]


@pytest.mark.parametrize(
    "array",
    [
        pa.array(LISTS),
        pa.array(LISTS, pa.large_list(pa.uint16())),
        pa.array([[9, 9], *LISTS, [9]]).slice(1, 5),
        pa.chunked_array([pa.array(LISTS[:2]), pa.array([], pa.list_(pa.int64())), LISTS[2:]]),
        pa.chunked_array([pa.array([[9], *LISTS[:3]]).slice(1), pa.array(LISTS[3:])]),
    ],
    ids=["list", "large list", "slice", "chunks", "chunks of slices"],
)
def test_lists_of_arrow(array):
    assert_holds(FlatTokens.from_arrow(array), LISTS)


def test_lists_of_a_fixed_size():
    array = pa.array([[1, 2], [3, 4], [5, 6], [7, 8]], pa.list_(pa.int32(), 2)).slice(1, 2)
    assert_holds(FlatTokens.from_arrow(array), [[3, 4], [5, 6]])


def test_arrow_is_not_copied():
    array = pa.array(LISTS, pa.list_(pa.uint16()))
    tokens = FlatTokens.from_arrow(array).__getitems__([0]).fields["input_ids"].tokens
    assert tokens.ctypes.data == array.values.buffers()[1].address


def test_columns_of_a_table():
    table = pa.table({
        "input_ids": LISTS,
        "labels": [[-token for token in row] for row in LISTS],
        "is_answer": [[token > 2 for token in row] for row in LISTS],
        "weight": [0.5, 1.0, 2.0, 3.0, 4.0],
        "text": ["a", "b", None, "d", "e"],
    })  # fmt: skip
    sample = FlatTokens.from_arrow(table)[1]
    assert [*sample] == ["input_ids", "labels", "is_answer", "weight"]
    assert sample["labels"].tolist() == [-2, -3]
    assert sample["is_answer"].tolist() == [False, True]
    assert sample["weight"] == 1.0
    assert [*FlatTokens.from_arrow(table, fields=["labels"])[0]] == ["labels"]
    own = FlatTokens.from_arrow(table, fields=["input_ids"], labels=True)[3]
    assert own["labels"].tolist() == own["input_ids"].tolist() == [4, 5, 6]


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (pa.array([[1], None]), LengthsError, "'input_ids' has 1 nulls; expected numbers"),
        (pa.array([[1, None]]), LengthsError, "holds 1 nulls"),
        (pa.array(["a"]), ColumnNotFoundError, "holds lists of numbers"),
        (pa.array([1, 2]), ColumnNotFoundError, "none of the columns"),
        (pa.array([["a"]]), ColumnNotFoundError, "none of the columns .'input_ids'. holds"),
        (pa.array([[[1]]]), ColumnNotFoundError, "none of the columns .*"),
        (
            pa.table({"a": [[1]], "b": [[1, 2]]}),
            LengthsError,
            "'b' are not as long as those of 'a'",
        ),
        ([[1], [2]], SourceError, "cannot be taken from a list: pass lists or a table of pyarrow"),
    ],
    ids=["null", "null inside", "text", "numbers", "lists of text", "nested", "lengths", "list"],
)
def test_what_is_no_list_of_numbers_is_refused(data, error, message):
    with pytest.raises(error, match=message):
        FlatTokens.from_arrow(data)


@pytest.mark.parametrize("size", [-1, 2])
def test_nulls_that_were_filtered_out_do_not_matter(size):
    datasets = pytest.importorskip("datasets")
    table = pa.table({
        "input_ids": pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int32(), size)),
        "label": pa.array([7, None, 9], pa.int64()),
    })  # fmt: skip
    whole = datasets.Dataset(table)
    dataset = FlatTokens.from_arrow(whole.select([2, 0]).with_transform(lambda batch: batch))
    assert_holds(dataset, [[3, 4], [1, 2]])
    assert [sample["label"] for sample in dataset] == [9, 7]
    with pytest.raises(LengthsError, match="'input_ids' has 1 nulls"):
        FlatTokens.from_arrow(whole.select([2, 1]))


def test_columns_that_are_missing_or_no_numbers_are_refused():
    table = pa.table({"input_ids": [[1]], "text": ["a"]})
    with pytest.raises(ColumnNotFoundError, match="no column 'tokens', expected one of"):
        FlatTokens.from_arrow(table, fields=["tokens"])
    with pytest.raises(LengthsError, match="'text' has type string; expected numbers"):
        FlatTokens.from_arrow(table, fields=["input_ids", "text"])
    assert FlatTokens.from_arrow(table, fields="input_ids")[0]["input_ids"].tolist() == [1]
    table = pa.table({"input_ids": [[1]], "label": pa.array([None], pa.int64())})
    with pytest.raises(LengthsError, match=r"'label' has 1 nulls; .* Name others: fields=\["):
        FlatTokens.from_arrow(table)


def test_a_hugging_face_dataset_as_it_was_selected(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    lists = [[index] * (index % 4) for index in range(40)]
    made = datasets.Dataset.from_dict({"input_ids": lists, "number": range(40)})
    made.save_to_disk(tmp_path / "saved", num_shards=3)
    assert_holds(FlatTokens.open(tmp_path / "saved"), lists)
    mapped = datasets.load_from_disk(tmp_path / "saved")
    for dataset in (
        mapped,
        mapped.shuffle(seed=0),
        mapped.select([5, 3, 3, 39]),
        mapped.select(range(10, 20)),
        mapped.filter(lambda number: number > 30, input_columns="number"),
        mapped.shuffle(seed=0).select([2, 1]).with_format("numpy"),
        datasets.concatenate_datasets([made, mapped.select([1, 0])]),
    ):
        flat = FlatTokens.from_arrow(dataset)
        plain = dataset.with_format(None)
        assert_holds(flat, list(plain["input_ids"]))
        assert [sample["number"] for sample in flat] == list(plain["number"])
        assert flat.lengths.tolist() == bw.read_lengths(dataset, column="input_ids").tolist()
    assert len(pickle.dumps(FlatTokens.open(tmp_path / "saved"))) < 1_000
    assert len(FlatTokens.from_arrow(mapped.select([]))) == 0
    with pytest.raises(SourceError, match="from a DatasetDict: .* one of the splits"):
        FlatTokens.from_arrow(datasets.DatasetDict(train=mapped))
    with pytest.raises(SourceError, match="from a IterableDataset"):
        FlatTokens.from_arrow(mapped.to_iterable_dataset())
    datasets.enable_progress_bars()


@pytest.mark.parametrize("kind", ["file", "stream"])
def test_arrow_files_are_mapped(tmp_path, kind):
    path = tmp_path / "a.arrow"
    table = pa.table({"input_ids": LISTS})
    with (pa.ipc.new_file if kind == "file" else pa.ipc.new_stream)(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    before = pa.total_allocated_bytes()
    dataset = FlatTokens.open(path)
    assert pa.total_allocated_bytes() == before
    assert_holds(dataset, LISTS)


@pytest.mark.parametrize("dtype", ["uint16", "int32"])
@pytest.mark.parametrize("name", ["a.idx", "a.bin"])
def test_megatron(tmp_path, dtype, name):
    write_megatron(tmp_path / "a.idx", LISTS, dtype=dtype)
    assert_holds(FlatTokens.open(tmp_path / name), LISTS)
    assert len(pickle.dumps(FlatTokens.open(tmp_path / name))) < 300


def test_fairseq(tmp_path):
    write_fairseq(tmp_path / "a.idx", LISTS)
    assert_holds(FlatTokens.open(tmp_path / "a.idx"), LISTS)


@pytest.mark.parametrize("item", [2, 4])
@pytest.mark.parametrize("name", ["a.ds.index", "a.ds"])
def test_datatrove(tmp_path, item, name):
    write_datatrove(tmp_path / "a.ds", LISTS, item=item)
    assert_holds(FlatTokens.open(tmp_path / name), LISTS)


def test_several_files_are_one_data_set(tmp_path):
    for number, lists in enumerate((LISTS, [[11, 12]], LISTS[:1])):
        write_datatrove(tmp_path / f"{number}.ds", lists)
    expected = [*LISTS, [11, 12], *LISTS[:1]]
    dataset = FlatTokens.open(tmp_path)
    assert_holds(dataset, expected)
    assert dataset.lengths.tolist() == bw.read_lengths(tmp_path).tolist()


def test_samples_that_begin_inside_of_a_token_are_refused(tmp_path):
    write_megatron(tmp_path / "a.idx", [[1, 2], [3, 4], [5, 6], [7, 8]])
    index = bytearray((tmp_path / "a.idx").read_bytes())
    place = index.index((8).to_bytes(8, "little"), 34)  # the third sequence begins at byte 8
    index[place] = 9
    (tmp_path / "a.idx").write_bytes(index)
    dataset = FlatTokens.open(tmp_path / "a.idx")
    for read in (lambda: dataset.lengths, lambda: dataset[1]):
        with pytest.raises(LengthsError, match="begins at byte 9, inside of a token of 2 bytes"):
            read()


def test_a_stream_cut_off_between_batches_is_refused(tmp_path):
    table = pa.table({"input_ids": pa.array(LISTS)})
    path = str(tmp_path / "a.arrow")
    with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
        end = file.tell()
        stream.write_table(table)
    whole = (tmp_path / "a.arrow").read_bytes()
    for cut in (end, len(whole) - 8):
        (tmp_path / "b.arrow").write_bytes(whole[:cut])
        with pytest.raises(SourceError, match=rf"it stops after {cut:,} bytes without an end"):
            FlatTokens.open(tmp_path / "b.arrow")


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    write_megatron(tmp_path / "a.idx", LISTS)
    (tmp_path / "a.bin").write_bytes((tmp_path / "a.bin").read_bytes()[:-1])
    with pytest.raises(SourceError, match=r"a.bin has 15 bytes, but a.idx says 8 tokens of 2"):
        FlatTokens.open(tmp_path / "a.idx")
    (tmp_path / "b.bin").write_bytes(b"12")
    with pytest.raises(SourceError, match=r"no .*b.idx to say where the samples of"):
        FlatTokens.open(tmp_path / "b.bin")
    (tmp_path / "a.bin").unlink()
    with pytest.raises(SourceError, match=r"its file of tokens .*a.bin is missing"):
        FlatTokens.open(tmp_path / "a.idx")
    write_datatrove(tmp_path / "b.ds", LISTS)
    (tmp_path / "b.ds").write_bytes(b"12345")
    with pytest.raises(SourceError, match=r"b.ds has 5 bytes, but b.ds.index says 8 tokens"):
        FlatTokens.open(tmp_path / "b.ds")
    np.save(tmp_path / "c.npy", np.arange(3))
    with pytest.raises(SourceError, match=r"does not say where samples are; expected .idx"):
        FlatTokens.open(tmp_path / "c.npy")


def test_paths_are_those_of_the_directory_where_they_were_opened(tmp_path, monkeypatch):
    write_megatron(tmp_path / "a.idx", LISTS)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    datasets = FlatTokens.open("a.bin"), FlatTokens.open(".")
    monkeypatch.chdir("elsewhere")
    for dataset in datasets:
        assert_holds(dataset, LISTS)
