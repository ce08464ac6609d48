"""Hugging Face datasets, live and saved."""

import json
import shutil
import subprocess
import sys

import pytest

from batchwright import sources
from batchwright.errors import ColumnNotFoundError, LengthsError, SourceError, SourceNotFoundError

datasets = pytest.importorskip("datasets")

TEXTS = [f"{'to be ' * (i % 9)}é" for i in range(60)]


@pytest.fixture(autouse=True)
def _quiet():
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@pytest.fixture
def dataset():
    dataset = datasets.Dataset.from_dict(
        {
            "text": TEXTS,
            "input_ids": [list(range(i % 7)) for i in range(60)],
            "length": list(range(1, 61)),
        }
    )
    return dataset.cast_column("length", datasets.Value("int32"))


def check(source, rows: list[int]) -> None:
    lengths = sources.read_lengths(source)
    assert lengths.dtype == "int32"
    assert lengths.tolist() == [row + 1 for row in rows]
    assert sources.read_lengths(source, column="input_ids").tolist() == [row % 7 for row in rows]
    words = sources.read_lengths(source, measure="words")
    assert words.tolist() == [len(TEXTS[row].split()) for row in rows]


def test_live(dataset) -> None:
    check(dataset, list(range(60)))


def test_live_as_selected_shuffled_and_filtered(dataset) -> None:
    check(dataset.select([5, 3, 3, 59]), [5, 3, 3, 59])
    shuffled = dataset.shuffle(seed=0)
    check(shuffled, [length - 1 for length in shuffled["length"]])
    check(dataset.filter(lambda row: row["length"] % 2 == 0), list(range(1, 60, 2)))
    check(datasets.concatenate_datasets([dataset, dataset.select([1])]), [*range(60), 1])


@pytest.mark.parametrize("format_", ["numpy", "pandas", None])
def test_live_whatever_its_format(dataset, format_) -> None:
    formatted = dataset.with_format(format_, columns=["text"] if format_ else None)
    check(formatted, list(range(60)))
    assert formatted.format["type"] == format_


def test_live_with_a_transform_that_is_not_run(dataset) -> None:
    def fail(rows):
        raise AssertionError

    check(dataset.with_transform(fail), list(range(60)))


@pytest.mark.parametrize("shards", [1, 4])
def test_saved(dataset, tmp_path, shards: int) -> None:
    dataset.save_to_disk(tmp_path / "saved", num_shards=shards)
    check(tmp_path / "saved", list(range(60)))
    check(str(tmp_path / "saved"), list(range(60)))
    check(datasets.load_from_disk(tmp_path / "saved"), list(range(60)))


def test_saved_after_shuffling_is_read_in_the_shuffled_order(dataset, tmp_path) -> None:
    shuffled = dataset.shuffle(seed=1)
    shuffled.save_to_disk(tmp_path / "saved", num_shards=3)
    check(tmp_path / "saved", [length - 1 for length in shuffled["length"]])


def test_saved_is_read_without_the_package(dataset, tmp_path) -> None:
    dataset.save_to_disk(tmp_path / "saved")
    code = (
        "import sys; sys.modules['datasets'] = None\n"
        "from batchwright import sources\n"
        "print(sources.read_lengths(sys.argv[1]).sum())"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys; sys.path[:0] = {sys.path!r}\n{code}",
            tmp_path / "saved",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) == 60 * 61 // 2


def test_what_was_measured_is_cached_by_the_contents(dataset, cache_directory, monkeypatch) -> None:
    first = sources.read_lengths(dataset, measure="words")
    assert len(list(cache_directory.iterdir())) == 1
    with monkeypatch.context() as patch:
        patch.setattr(datasets.Dataset, "iter", None)
        assert sources.read_lengths(dataset, measure="words").tolist() == first.tolist()
    changed = dataset.map(lambda _: {"text": "one"})
    assert set(sources.read_lengths(changed, measure="words").tolist()) == {1}
    assert sources.read_lengths(dataset.select([8]), measure="words").tolist() == [first[8]]


def test_splits_are_named(dataset, tmp_path) -> None:
    splits = datasets.DatasetDict(train=dataset, test=dataset.select([0]))
    with pytest.raises(SourceError, match="A DatasetDict holds splits"):
        sources.read_lengths(splits)
    splits.save_to_disk(tmp_path / "saved")
    with pytest.raises(SourceError, match="its directories: 'test', 'train'"):
        sources.read_lengths(tmp_path / "saved")
    check(tmp_path / "saved" / "train", list(range(60)))


@pytest.mark.slow  # where torch is installed, making one imports it
def test_a_stream_is_refused(dataset) -> None:
    with pytest.raises(SourceError, match="no fixed number of rows"):
        sources.read_lengths(dataset.to_iterable_dataset())


def test_bad_rows_and_columns(dataset) -> None:
    with pytest.raises(ColumnNotFoundError, match="the Dataset has no column 'length_'"):
        sources.read_lengths(dataset, column="length_")
    holes = datasets.Dataset.from_dict({"text": ["a"] * 9000 + [None]})
    with pytest.raises(
        LengthsError, match="the Dataset: 1 of 9,001 rows of 'text' is missing, row 9,000 "
    ):
        sources.read_lengths(holes, measure="words")
    with pytest.raises(SourceError, match="no rows"):
        sources.read_lengths(dataset.select([]))


def test_saved_and_damaged(dataset, tmp_path) -> None:
    dataset.save_to_disk(tmp_path / "saved", num_shards=2)
    state, shard = tmp_path / "saved" / "state.json", "data-00001-of-00002.arrow"
    content = state.read_text()

    whole = (tmp_path / "saved" / shard).read_bytes()
    (tmp_path / "saved" / shard).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError, match=shard):
        sources.read_lengths(tmp_path / "saved")
    (tmp_path / "saved" / shard).unlink()
    with pytest.raises(SourceNotFoundError, match=f"not complete: there is no file .*{shard}"):
        sources.read_lengths(tmp_path / "saved")

    for damaged in (content[:20], "{}", "[]", json.dumps({"_data_files": [{}]}), ""):
        state.write_text(damaged)
        with pytest.raises(SourceError, match=r"saved"):
            sources.read_lengths(tmp_path / "saved")
    state.write_text(json.dumps({"_data_files": []}))
    with pytest.raises(SourceError, match="no rows"):
        sources.read_lengths(tmp_path / "saved")
    shutil.rmtree(tmp_path / "saved")


def test_lists_of_a_shuffled_dataset_are_not_taken(monkeypatch) -> None:
    rows = [list(range(i % 7)) if i % 10 else None for i in range(60)]
    dataset = datasets.Dataset.from_dict({"input_ids": rows})
    halves = datasets.concatenate_datasets([dataset.select(range(9, 60)), dataset.select([1, 2])])
    for each in (dataset.shuffle(seed=0), halves.shuffle(seed=0)):
        given = each["input_ids"]
        with monkeypatch.context() as patch:
            patch.setattr(datasets.Dataset, "iter", None)
            with pytest.raises(LengthsError, match=f"row {list(given).index(None)} "):
                sources.read_lengths(each)
            whole = each.select([row for row, values in enumerate(given) if values is not None])
            expected = [len(values) for values in given if values is not None]
            assert sources.read_lengths(whole).tolist() == expected


def test_the_items_of_lists_are_not_read(dataset, tmp_path) -> None:
    import pyarrow as pa

    long = datasets.Dataset.from_dict({"input_ids": [[0] * 5_000] * 200})
    long.save_to_disk(tmp_path / "saved")
    usual = pa.default_memory_pool()
    counting = pa.proxy_memory_pool(usual)
    pa.set_memory_pool(counting)
    try:
        assert set(sources.read_lengths(tmp_path / "saved")) == {5_000}
    finally:
        pa.set_memory_pool(usual)
    assert 0 < counting.max_memory() < 1_000_000  # of 8,000,000
