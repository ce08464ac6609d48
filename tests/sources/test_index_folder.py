"""A corpus measured shard by shard is one index: as if measured at once, whatever happens."""

import itertools
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import batchwright as bw
from batchwright.difficulty import compression
from batchwright.errors import (
    LengthsError,
    MissingExtraError,
    PlanError,
    SourceError,
    SourceNotFoundError,
)
from batchwright.sources import (
    engines,
    index_scores,
    index_shard,
    index_shards,
    index_tasks,
    open_index,
    read_lengths,
)
from batchwright.sources.index_folder import INDEX_FILE
from tests.patience import PATIENCE
from tests.sources.corpora import check_index, contents, texts_of, write_corpus

pytest.importorskip("pyarrow")

SOURCE = Path(__file__).resolve().parents[2] / "src"
SCRIPT = Path(__file__).with_name("slow_index.py")
SIZES = (40, 3, 120, 1)
NUMBERS = itertools.count()


@pytest.fixture
def corpus(tmp_path):
    """A folder of four shards, and the words of each of their texts."""
    return tmp_path / "corpus", write_corpus(tmp_path / "corpus", SIZES)


def indexed(corpus, tmp_path, **options):
    return index_shards(
        corpus[0], tmp_path / "index", **{"measure": "words", "workers": 1} | options
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("corpora")


@given(
    lengths=st.lists(
        st.lists(st.integers(1, 5) | st.integers(1, 10**6), min_size=1, max_size=20),
        min_size=1,
        max_size=5,
    )
)
def test_the_index_is_that_of_all_lengths_at_once(folder, lengths):
    place = folder / f"{next(NUMBERS)}"
    place.mkdir()
    for number, own in enumerate(lengths):
        np.save(place / f"{number}.npy", np.array(own))
    check_index(index_shards(place, f"{place}-index", workers=1), lengths)
    check_index(open_index(f"{place}-index"), lengths)


def test_the_folder_has_a_file_for_each_shard_and_is_itself_a_source(corpus, tmp_path):
    index = indexed(corpus, tmp_path)
    names = [f"{number:06d}-part-{number:03d}.parquet" for number in range(4)]
    assert list(contents(tmp_path / "index")) == [*names, INDEX_FILE]
    assert index.names == tuple(str(path) for path in sorted(corpus[0].iterdir()))
    flat = list(itertools.chain.from_iterable(corpus[1]))
    assert read_lengths(tmp_path / "index").tolist() == flat


def test_a_planner_takes_it(corpus, tmp_path):
    index = indexed(corpus, tmp_path)
    planner = bw.Planner(index, max_tokens=200)
    found = sorted(sample for batch in planner(0) for sample in batch.tolist())
    assert found == list(range(sum(SIZES)))


def test_one_file_and_a_pattern_are_corpora_too(corpus, tmp_path):
    shards, lengths = corpus
    check_index(
        index_shards(shards / "part-000.parquet", tmp_path / "a", measure="words"), lengths[:1]
    )
    found = index_shards(shards / "part-00[12].*", tmp_path / "b", measure="words", workers=1)
    check_index(found, lengths[1:3])


def test_shards_without_rows_are_kept_as_such(tmp_path):
    lengths = write_corpus(tmp_path / "corpus", (5, 0, 7, 0))
    check_index(indexed((tmp_path / "corpus", lengths), tmp_path), lengths)
    assert index_scores_of(tmp_path, lengths) == [1] * 12
    write_corpus(tmp_path / "nothing", (0, 0))
    with pytest.raises(SourceError, match="nothing has no rows"):
        index_shards(tmp_path / "nothing", tmp_path / "none", measure="words", workers=1)


def index_scores_of(tmp_path, lengths):
    scores = {"one": lambda texts: [1] * len(texts)}
    indexed((tmp_path / "corpus", lengths), tmp_path, scores=scores)
    return index_scores(tmp_path / "index", "one").tolist()


def test_a_second_run_measures_nothing_and_a_new_shard_alone(corpus, tmp_path):
    indexed(corpus, tmp_path)
    before = times(tmp_path / "index")
    indexed(corpus, tmp_path)
    assert times(tmp_path / "index") == before
    lengths = write_corpus(tmp_path / "more", (*SIZES, 9))
    (tmp_path / "more" / "part-004.parquet").rename(corpus[0] / "part-004.parquet")
    check_index(indexed((corpus[0], lengths), tmp_path), lengths)
    after = times(tmp_path / "index")
    assert after.pop("000004-part-004.parquet")
    assert after == before


def times(folder):
    return {p.name: p.stat().st_mtime_ns for p in folder.iterdir() if p.name != INDEX_FILE}


def test_only_what_changed_or_is_damaged_is_measured_again(corpus, tmp_path):
    indexed(corpus, tmp_path)
    before = times(tmp_path / "index")
    names = sorted(before)
    os.utime(corpus[0] / "part-001.parquet", ns=(5, 5))
    cut = tmp_path / "index" / names[2]
    cut.write_bytes(cut.read_bytes()[:-10])
    (tmp_path / "index" / names[3]).unlink()
    check_index(indexed(corpus, tmp_path), corpus[1])
    after = times(tmp_path / "index")
    assert [name for name in names if after[name] != before[name]] == names[1:]


def test_scores_come_back_in_the_order_of_the_rows(corpus, tmp_path):
    indexed(corpus, tmp_path, scores={"size": characters})
    texts = [text for number, size in enumerate(SIZES) for text in texts_of(size, number)]
    assert index_scores(tmp_path / "index", "size").tolist() == characters(texts)
    with pytest.raises(SourceError, match=r"no scores named 'other'; it has 'size'"):
        index_scores(tmp_path / "index", "other")


def characters(texts):
    return [len(text) for text in texts]


@pytest.mark.slow
def test_processes_write_what_one_process_writes(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "cores", lambda: 2)
    scores = {"compression": compression}
    for name, workers in (("one", 1), ("two", 2)):
        index = index_shards(
            corpus[0], tmp_path / name, measure="words", scores=scores, workers=workers
        )
        check_index(index, corpus[1])
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


@pytest.mark.slow
def test_a_bad_shard_ends_all_processes_with_its_error(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "cores", lambda: 2)
    cut = corpus[0] / "part-002.parquet"
    cut.write_bytes(cut.read_bytes()[:-100])
    with pytest.raises(SourceError, match=r"part-002\.parquet cannot be read as Parquet"):
        indexed(corpus, tmp_path, workers=2)


def test_a_metric_that_cannot_be_sent_is_named(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "cores", lambda: 2)
    with pytest.raises(SourceError, match="workers=1"):
        indexed(corpus, tmp_path, workers=2, scores={"size": lambda texts: [1] * len(texts)})


def start(corpus, tmp_path, *, seconds, workers=2):
    (tmp_path / "pids").mkdir(exist_ok=True)
    environment = {"PYTHONPATH": str(SOURCE), "PIDS": str(tmp_path / "pids"), "SECONDS": seconds}
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(corpus), str(tmp_path / "index"), str(workers)],
        env=os.environ | environment,
        stderr=subprocess.PIPE,
    )


def wait_for(condition, process=None):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are found in /proc")
def test_a_run_that_is_killed_leaves_no_process_and_is_gone_on_with(tmp_path):
    lengths = write_corpus(tmp_path / "corpus", [5] * 10)
    folder = tmp_path / "index"
    process = start(tmp_path / "corpus", tmp_path, seconds="0.5")
    wait_for(lambda: len(list(folder.glob("*.parquet"))) >= 3, process)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=PATIENCE)
    workers = [int(path.name) for path in (tmp_path / "pids").iterdir()]
    assert workers
    assert process.pid not in workers
    wait_for(lambda: not any(map(is_alive, workers)))
    finished = times(folder)
    assert 3 <= len(finished) < 10
    assert not (folder / INDEX_FILE).exists()
    again = start(tmp_path / "corpus", tmp_path, seconds="0")
    _, err = again.communicate(timeout=PATIENCE)
    assert (again.returncode, err) == (0, b"")
    after = times(folder)
    assert {name: after[name] for name in finished} == finished
    assert len(after) == 10
    check_index(open_index(folder), lengths)


@pytest.mark.slow
def test_a_worker_that_is_killed_ends_the_run_with_one_error(tmp_path):
    write_corpus(tmp_path / "corpus", [5] * 10)
    process = start(tmp_path / "corpus", tmp_path, seconds="0.5")
    pids = tmp_path / "pids"
    wait_for(lambda: any(pids.iterdir()), process)
    os.kill(int(next(pids.iterdir()).name), signal.SIGKILL)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert b"SourceError: a process that measures shards ended" in err


JOB = """
import os, sys
from batchwright.sources import index_shard, index_tasks

shard, file = index_tasks(*sys.argv[1:])[int(os.environ["SLURM_ARRAY_TASK_ID"])]
index_shard(shard, file, measure="words")
"""


@pytest.mark.slow
def test_four_jobs_of_an_array_are_found_and_merged(corpus, tmp_path):
    folder = tmp_path / "index"
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", JOB, str(corpus[0]), str(folder)],
            env=os.environ | {"PYTHONPATH": str(SOURCE), "SLURM_ARRAY_TASK_ID": str(number)},
        )
        for number in range(4)
    ]
    assert [job.wait(PATIENCE) for job in jobs] == [0] * 4
    before = times(folder)
    assert len(before) == 4
    check_index(indexed(corpus, tmp_path), corpus[1])
    assert times(folder) == before


def test_a_message_says_that_shards_have_other_numbers_now(corpus, tmp_path):
    indexed(corpus, tmp_path)
    (corpus[0] / "part-000.parquet").unlink()
    with pytest.raises(SourceError, match=r"renamed or removed: shards are numbered by name"):
        indexed(corpus, tmp_path)


def test_the_command_to_run_again_has_all_options(corpus, tmp_path):
    options = {"column": "text", "empty": "one", "scores": {"compression": compression}}
    indexed(corpus, tmp_path, **options)
    (corpus[0] / "part-000.parquet").unlink()
    with pytest.raises(SourceNotFoundError) as raised:
        open_index(tmp_path / "index")
    command = str(raised.value)
    assert "--length text --measure words --empty one --score compression`" in command


def test_shards_that_are_not_as_they_were_are_refused_by_name(corpus, tmp_path):
    indexed(corpus, tmp_path)
    shard = corpus[0] / "part-002.parquet"
    content, stamp = shard.read_bytes(), shard.stat().st_mtime_ns

    def check(error, words):
        with pytest.raises(error) as raised:
            open_index(tmp_path / "index")
        assert words in str(raised.value)
        assert str(shard) in str(raised.value)
        assert (
            f"Run `batchwright index {corpus[0]} -o {tmp_path / 'index'} --measure words`"
            in str(raised.value)
        )
        check_index(open_index(tmp_path / "index", check=False), corpus[1])

    shard.write_bytes(content[:-20])
    check(SourceError, "was cut off after it was indexed")
    shard.write_bytes(content)
    os.utime(shard, ns=(stamp + 10**9, stamp + 10**9))
    check(SourceError, "was changed after it was indexed")
    shard.unlink()
    check(SourceNotFoundError, "is missing")
    shard.write_bytes(content)
    os.utime(shard, ns=(stamp, stamp))
    check_index(open_index(tmp_path / "index"), corpus[1])


def test_a_damaged_file_of_a_shard_is_refused_by_name(corpus, tmp_path):
    index = indexed(corpus, tmp_path)
    file = tmp_path / "index" / "000002-part-002.parquet"
    whole = file.read_bytes()
    expected = index.rows_of(2).tolist()
    harmless = 0
    for place in range(0, len(whole), 7):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        file.write_bytes(changed)
        try:
            found = index.rows_of(2).tolist()
        except SourceError as error:
            assert str(file) in str(error)
            assert "batchwright index" in str(error)
        else:
            harmless += 1
            assert found == expected  # a byte of lengths, or of facts that are not looked at
    assert harmless < len(whole) // 7
    for size in (0, 4, 100, len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(SourceError, match=r"000002-part-002\.parquet"):
            index.rows_of(2)
    file.unlink()
    with pytest.raises(SourceNotFoundError, match=r"000002-part-002\.parquet"):
        index.rows_of(2)


def test_a_file_of_other_lengths_is_refused(corpus, tmp_path):
    index = indexed(corpus, tmp_path)
    index_shard(
        corpus[0] / "part-002.parquet",
        tmp_path / "index" / "000002-part-002.parquet",
        measure="characters",
    )
    with pytest.raises(SourceError, match="of other lengths than the index"):
        index.rows_of(2)


@pytest.mark.parametrize("size", [0, 7, 300, -1])
def test_a_damaged_index_is_refused(corpus, tmp_path, size):
    indexed(corpus, tmp_path)
    file = tmp_path / "index" / INDEX_FILE
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(SourceError, match=r"_index\.safetensors.*batchwright index"):
        open_index(tmp_path / "index")


def test_an_index_of_which_a_bit_was_changed_is_refused(corpus, tmp_path):
    indexed(corpus, tmp_path)
    file = tmp_path / "index" / INDEX_FILE
    whole = file.read_bytes()
    for place in range(0, len(whole), 11):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        file.write_bytes(changed)
        with pytest.raises(SourceError, match=r"_index\.safetensors"):
            open_index(tmp_path / "index", check=False)


def test_a_folder_without_an_index_is_refused(tmp_path):
    with pytest.raises(SourceNotFoundError, match="batchwright index SOURCE"):
        open_index(tmp_path)


def test_a_folder_of_other_files_is_refused_before_anything_is_measured(corpus, tmp_path):
    shards, _ = corpus
    with pytest.raises(SourceError, match=r"part-000\.parquet.*name another folder"):
        index_shards(shards, shards, measure="words")
    assert len(list(shards.iterdir())) == 4
    indexed(corpus, tmp_path)
    (shards / "part-000.parquet").unlink()
    with pytest.raises(SourceError, match=r"000000-part-000\.parquet, "):
        indexed(corpus, tmp_path)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(SourceError, match="file"):
        index_shards(shards, file, measure="words")


def test_many_shards_are_named_in_their_order(tmp_path):
    write_corpus(tmp_path / "corpus", [1] * 12, suffix="csv")
    names = [Path(file).name for _, file in index_tasks(tmp_path / "corpus", tmp_path / "index")]
    assert names == sorted(names)
    assert names[11] == "000011-part-011.parquet"
    long = tmp_path / "long" / f"{'ü' * 120}.csv"
    long.parent.mkdir()
    long.write_text("length\n3\n", "utf-8")
    assert index_shards(long.parent, tmp_path / "of long", workers=1).num_samples == 1


def test_a_pickle_is_the_folder_and_another_index_in_it_is_refused(corpus, tmp_path):
    index = indexed(corpus, tmp_path)
    pickled = pickle.dumps(index)
    assert len(pickled) < 500
    check_index(pickle.loads(pickled), corpus[1])  # noqa: S301
    indexed(corpus, tmp_path, measure="characters")
    with pytest.raises(PlanError, match="built again"):
        pickle.loads(pickled)  # noqa: S301


def test_a_relative_folder_is_found_from_elsewhere(corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    index = index_shards("corpus", "index", measure="words", workers=1)
    pickled = pickle.dumps(index)
    monkeypatch.chdir("/")
    check_index(index, corpus[1])
    check_index(pickle.loads(pickled), corpus[1])  # noqa: S301
    check_index(open_index(tmp_path / "index"), corpus[1])


def test_a_corpus_and_an_index_in_a_remote_file_system(corpus, tmp_path):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    for path in corpus[0].iterdir():
        memory.pipe_file(f"/corpus/{path.name}", path.read_bytes())
    try:
        index = index_shards(
            "memory://corpus",
            "memory://index",
            measure="words",
            scores={"size": characters},
            workers=1,
        )
        check_index(index, corpus[1])
        check_index(open_index("memory://index"), corpus[1])
        assert len(index_scores("memory://index", "size")) == sum(SIZES)
        before = memory.cat_file("/index/000001-part-001.parquet")
        memory.pipe_file("/index/000001-part-001.parquet", before[:50])
        with pytest.raises(SourceError, match=r"memory://index/000001-part-001\.parquet"):
            index.rows_of(1)
        memory.pipe_file("/corpus/part-001.parquet", b"cut off")
        with pytest.raises(SourceError, match=r"memory://corpus/part-001\.parquet was cut off"):
            open_index("memory://index")
        memory.rm_file("/corpus/part-001.parquet")
        with pytest.raises(SourceNotFoundError, match=r"part-001\.parquet is missing"):
            open_index("memory://index")
    finally:
        memory.rm("/corpus", recursive=True)
        memory.rm("/index", recursive=True)


def test_without_ray_it_says_what_to_install(corpus, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'ray\[data\]'"):
        indexed(corpus, tmp_path, on="ray")


@pytest.mark.parametrize(
    ("options", "words"), [({"on": "spark"}, "'ray'"), ({"workers": 0}, "workers=0")]
)
def test_options_that_make_no_sense_are_refused(corpus, tmp_path, options, words):
    with pytest.raises(SourceError, match=words):
        indexed(corpus, tmp_path, **options)


def test_an_empty_row_is_named_with_its_shard(tmp_path):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.jsonl").write_text('{"text": "a"}\n', "utf-8")
    (tmp_path / "corpus" / "b.jsonl").write_text('{"text": "b"}\n{"text": ""}\n', "utf-8")
    with pytest.raises(LengthsError, match=r"b\.jsonl: 1 of 2 rows.*row 1"):
        indexed((tmp_path / "corpus", None), tmp_path)
    index = indexed((tmp_path / "corpus", None), tmp_path, empty="one")
    assert index.lengths().tolist() == [1, 1, 1]


def test_a_bar_shows_how_many_shards_are_done(corpus, tmp_path, capfd):
    pytest.importorskip("rich")
    indexed(corpus, tmp_path, progress=True)
    assert "Measuring 4 shards" in capfd.readouterr().err
    indexed(corpus, tmp_path)
    assert capfd.readouterr() == ("", "")


def test_files_of_the_index_are_no_shards_of_a_pattern_that_finds_them(corpus, tmp_path):
    pattern, folder = tmp_path / "*" / "*.parquet", tmp_path / "index"
    check_index(indexed((pattern, None), tmp_path), corpus[1])
    before = contents(folder)
    (tmp_path / "link").symlink_to(folder)
    for place in (folder, tmp_path / "link"):
        if place != folder:
            pattern = tmp_path / "[ci]*" / "*.parquet"
        check_index(index_shards(pattern, place, measure="words", workers=1), corpus[1])
        assert [Path(file).name for _, file in index_tasks(pattern, place)] == sorted(before)[:4]
    assert {name: before[name] for name in sorted(before)[:4]} == {
        name: content for name, content in contents(folder).items() if name != INDEX_FILE
    }


def test_an_index_is_the_same_however_its_source_was_named(corpus, tmp_path, monkeypatch):
    indexed(corpus, tmp_path)
    before = contents(tmp_path / "index")
    monkeypatch.chdir(tmp_path)
    for name in ("corpus", "./corpus/", corpus[0].as_uri()):
        index_shards(name, "other", measure="words", workers=1)
        assert contents(tmp_path / "other") == before


def test_a_link_to_a_shard_that_is_missing_is_refused(corpus, tmp_path):
    (corpus[0] / "part-004.parquet").symlink_to(tmp_path / "nowhere.parquet")
    for read in (read_lengths, lambda folder: indexed((folder, None), tmp_path)):
        with pytest.raises(SourceNotFoundError, match=r"part-004\.parquet is a link to .*nowhere"):
            read(corpus[0])


def test_files_in_the_memory_of_this_process_are_measured_in_it(corpus, monkeypatch):
    memory = pytest.importorskip("fsspec").filesystem("memory")
    monkeypatch.setattr(engines, "cores", lambda: 2)
    for path in corpus[0].iterdir():
        memory.pipe_file(f"/corpus/{path.name}", path.read_bytes())
    try:
        check_index(index_shards("memory://corpus", "memory://index", measure="words"), corpus[1])
        found = index_shards("memory://*/*.parquet", "memory://index/", measure="words")
        check_index(found, corpus[1])
    finally:
        memory.rm("/corpus", recursive=True)
        memory.rm("/index", recursive=True)
