"""Sources by URI: every format as from a path, and errors that name the URI."""

import importlib
import json
import shutil
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import numpy as np
import pytest

from batchwright import sources
from batchwright.difficulty.scoring import Column
from batchwright.errors import (
    ColumnNotFoundError,
    MissingExtraError,
    SourceError,
    SourceNotFoundError,
)
from batchwright.sources import files, uris
from batchwright.sources.columns import column_values
from batchwright.sources.locations import Uri, located
from tests.cli.command import invoke

from .conftest import WITH_COLUMNS, WRITERS, pa, pq
from .test_damage import COLUMNS, SELF_DELIMITING, assert_one_clear_line
from .token_files import write_datatrove, write_fairseq, write_megatron

fsspec = pytest.importorskip("fsspec")
from fsspec.implementations.memory import MemoryFileSystem  # noqa: E402
from fsspec.spec import AbstractBufferedFile  # noqa: E402

LISTS = [[token] * (1 + token % 7) for token in range(40)]


class CountedFile(AbstractBufferedFile):
    """A file that is fetched in parts, as those of object stores are."""

    def _fetch_range(self, start: int, end: int) -> bytes:
        Counted.fetched += end - start
        return self.fs.store[self.path].getvalue()[start:end]


class Counted(MemoryFileSystem):
    """A file system that counts the bytes it hands over, and has ETags."""

    protocol = "counted"
    store: ClassVar[dict] = {}
    pseudo_dirs: ClassVar[list] = [""]
    fetched = 0

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.removeprefix("counted://"))

    def _open(self, path, mode="rb", **options):
        if mode != "rb":
            return super()._open(path, mode, **options)
        return CountedFile(self, self._strip_protocol(path), mode, **options)

    def info(self, path, **options):
        found = super().info(path, **options)
        if found["type"] == "file":
            found["ETag"] = f'"{hash(self.store[found["name"]].getvalue()):x}"'
        return found


@pytest.fixture(autouse=True)
def _file_systems():
    fsspec.register_implementation("counted", Counted, clobber=True)
    yield
    for system in (MemoryFileSystem, Counted):
        system.store.clear()
        system.pseudo_dirs[:] = [""]


def put(path: Path, scheme: str = "memory") -> str:
    """Copy a file, or the files of a folder, and return the URI of the copy."""
    root = f"{scheme}://{path.name}"
    for each in [path] if path.is_file() else sorted(path.rglob("*")):
        if each.is_file():
            name = each.relative_to(path).as_posix()
            uris.written(root if each == path else f"{root}/{name}", each.read_bytes())
    return root


def same(path: Path, uri: str | None = None, **options) -> None:
    expected = sources.read_lengths(path, **options)
    found = sources.read_lengths(uri or put(path), **options)
    assert found.dtype == expected.dtype
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("s3://bucket/a.csv", True),
        ("memory://a", True),
        ("simplecache::s3://bucket/a.csv", True),
        ("a.csv", False),
        ("C://a.csv", False),
        ("a/b://c", False),
        (Path("a.csv"), False),
    ],
)
def test_uris_are_told_from_paths(source, expected: bool) -> None:
    assert uris.is_uri(source) == expected
    assert isinstance(located(source), Uri) == expected


def test_a_path_that_was_a_uri_is_explained() -> None:
    with pytest.raises(SourceNotFoundError, match="pass it as text: a Path keeps one"):
        sources.read_lengths(Path("s3://bucket/a.csv"))


def test_a_file_uri_is_a_path(write) -> None:
    path = write("data.arrow", COLUMNS)
    assert located(f"file://{path}") == path
    same(path, f"file://{path}", column="length")
    same(path, f"file://{path.parent}/*.arrow", column="length")


def test_what_is_written_is_read_and_stamped(tmp_path) -> None:
    for folder in (tmp_path, "memory://folder", "memory://", "counted://a/b/"):
        place = uris.joined(folder, "a.bin")
        assert not uris.exists(place)
        with pytest.raises(SourceNotFoundError, match="There is no file"), uris.opened(place):
            pass
        with pytest.raises(SourceNotFoundError, match="There is no file"):
            uris.stamp(place)
        uris.written(place, b"first")
        size, before = uris.stamp(place)
        assert (size, uris.exists(place)) == (5, True)
        uris.written(place, b"other")
        assert uris.stamp(place) != (5, before)
        with uris.opened(place) as one, uris.opened(place) as other:
            assert (one.read(1), other.read(), one.seek(-1, 2)) == (b"o", b"other", 4)
            assert one.read() == b"r"


def test_a_pattern_is_listed_in_the_order_of_names(tmp_path) -> None:
    names = ["a/x.csv", "a-b/x.csv", "a/y.csv", "b.csv"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
        uris.written(f"memory://corpus/{name}", b"")
    assert uris.matches("memory://corpus/*/*.csv") == [
        f"memory://corpus/{name}" for name in ("a/x.csv", "a/y.csv", "a-b/x.csv")
    ]
    expected = [str(tmp_path / name) for name in ("a/x.csv", "a/y.csv", "a-b/x.csv")]
    assert uris.matches(tmp_path / "*" / "*.csv") == expected
    assert uris.matches("memory://nothing/*.csv") == []


@pytest.mark.parametrize("scheme", ["memory", "counted"])
@pytest.mark.parametrize("name", WITH_COLUMNS)
def test_every_format_is_read_as_from_a_path(write, name: str, scheme: str) -> None:
    path = write(name, {**COLUMNS, "input_ids": LISTS[:30]})
    uri = put(path, scheme)
    same(path, uri, column="length")
    same(path, uri, column="text", measure="words")
    if ".csv" not in name and ".tsv" not in name:
        same(path, uri, column="input_ids")
    assert column_values(uri, "text").to_pylist() == column_values(path, "text").to_pylist()
    scored = [sum(len(rows) for rows, _ in each.samples) for each in Column(uri, "text").shards(8)]
    assert scored == [8, 8, 8, 6]


@pytest.mark.parametrize("dtype", ["i8", "f4", ">i4", [("é", "i8"), ("length", "i4")]])
def test_npy(tmp_path, dtype) -> None:
    values = np.ones(5000, dtype)
    np.save(tmp_path / "a.npy", values)
    same(tmp_path / "a.npy")
    if values.dtype.names:
        same(tmp_path / "a.npy", column="é")


@pytest.mark.parametrize("suffix", [".bz2", ".zst", ".lz4"])
def test_compressed_lines(tmp_path, suffix: str) -> None:
    path = tmp_path / f"a.jsonl{suffix}"
    with pa.CompressedOutputStream(str(path), pa.Codec.detect(str(path)).name) as stream:
        stream.write(b'{"length": 3}\n{"length": 4}\n')
    same(path)


def test_indexes_of_tokens(tmp_path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    write_megatron(folder / "a.idx", LISTS, documents=[0, 3, 4, 4, 40])
    write_fairseq(folder / "b.idx", LISTS[:5])
    same(folder / "a.idx", f"{put(folder)}/a.idx", column="document_length")
    same(folder)
    shutil.rmtree(folder)
    folder.mkdir()
    write_datatrove(folder / "a.ds", LISTS)
    uri = put(folder)
    same(folder / "a.ds.index", f"{uri}/a.ds.index")
    uris.written(f"{uri}/a.ds.index", (folder / "a.ds.index").read_bytes()[:-8])
    with pytest.raises(SourceError, match=r"memory://corpus/a\.ds has .* is truncated"):
        sources.read_lengths(f"{uri}/a.ds.index")


@pytest.mark.parametrize("pattern", ["", "/*.parquet", "/part-?.parquet", "/part-[01].parquet"])
def test_shards_are_read_in_the_order_of_names(tmp_path, pattern: str) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    for part in (2, 0, 1):
        table = pa.table({"length": np.arange(3, dtype=np.int32) + 10 * part})
        pq.write_table(table, folder / f"part-{part}.parquet")
    (folder / "_SUCCESS").touch()
    (folder / "README.md").write_text("shards")
    uri = put(folder) + pattern
    same(Path(f"{folder}{pattern}"), uri)
    assert len(sources.read_lengths(uri)) in {6, 9}


def test_a_saved_dataset(tmp_path, write) -> None:
    folder = tmp_path / "saved"
    folder.mkdir()
    for name in ("b.arrow", "a.arrow"):
        write("stream.arrow", {"length": [ord(name[0])] * 9}).rename(folder / name)
    entries = [{"filename": name} for name in ("b.arrow", "a.arrow")]
    (folder / "state.json").write_text(json.dumps({"_data_files": entries}))
    same(folder)
    (tmp_path / "splits").mkdir()
    folder.rename(tmp_path / "splits" / "train")
    (tmp_path / "splits" / "dataset_dict.json").touch()
    with pytest.raises(SourceError, match=r"memory://splits holds splits.*'train'"):
        sources.read_lengths(put(tmp_path / "splits"))


@pytest.mark.parametrize("scheme", ["memory", "counted"])
@pytest.mark.parametrize("name", SELF_DELIMITING)
def test_a_truncated_file_is_refused_by_its_uri(write, name: str, scheme: str) -> None:
    path = write(name, COLUMNS)
    whole = path.read_bytes()
    for cut in (1, 7, len(whole) // 2, len(whole) - 9, len(whole) - 1):
        path.write_bytes(whole[:cut])
        uri = put(path, scheme)
        with pytest.raises(SourceError) as caught:
            sources.read_lengths(uri, column=None if name == "data.npy" else "length", cache=False)
        assert_one_clear_line(caught.value, uri)


@pytest.mark.parametrize("name", WRITERS)
def test_an_empty_file(name: str) -> None:
    uris.written(f"memory://{name}", b"")
    with pytest.raises(SourceError, match=f"^memory://{name} is empty: it has 0 bytes"):
        sources.read_lengths(f"memory://{name}")


@pytest.mark.parametrize("name", ["missing.parquet", "missing", "a/b.csv", "*.csv", "no*/*.csv"])
def test_a_missing_file(name: str) -> None:
    with pytest.raises(SourceNotFoundError, match="no file|There is no") as caught:
        sources.read_lengths(f"memory://{name}")
    assert f"memory://{name}" in str(caught.value)
    assert isinstance(caught.value, FileNotFoundError)


def test_other_mistakes_name_the_uri(write) -> None:
    uri = put(write("data.csv", {"length": [1]}))
    with pytest.raises(ColumnNotFoundError, match=f"^{uri} has no column 'lengthy'"):
        sources.read_lengths(uri, column="lengthy")
    uris.written("memory://data.xlsx", b"1")
    with pytest.raises(SourceError, match="^memory://data.xlsx is of an unknown kind"):
        sources.read_lengths("memory://data.xlsx")


@pytest.mark.parametrize("uri", ["nowhere://a/b.csv", "simplecache::nowhere://a/b.csv"])
def test_an_unknown_scheme(uri: str) -> None:
    with pytest.raises(
        SourceError, match=r"an unknown scheme, 'nowhere'; expected .* s3"
    ) as caught:
        sources.read_lengths(uri)
    assert_one_clear_line(caught.value, uri)


def test_errors_of_a_file_system_are_one_line(write, monkeypatch) -> None:
    uri = put(write("data.parquet", COLUMNS), "counted")

    def refused(*_):
        raise PermissionError("Access\nDenied")

    monkeypatch.setattr(CountedFile, "_fetch_range", refused)
    with pytest.raises(SourceError, match=r"access was denied \(Access Denied\)") as caught:
        sources.read_lengths(uri, column="length")
    assert_one_clear_line(caught.value, uri)
    monkeypatch.setattr(Counted, "info", refused)
    for call in (uris.exists, uris.stamp, sources.read_lengths):
        with pytest.raises(SourceError, match="access was denied") as caught:
            call(uri)
        assert_one_clear_line(caught.value, uri)


@pytest.fixture
def without(monkeypatch):
    """Return a function that makes a package look as if it were not installed."""

    def without_(package: str) -> None:
        for name in [*sys.modules]:
            if name.partition(".")[0] == package:
                monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.setitem(sys.modules, package, None)

    return without_


def test_the_package_of_a_scheme_is_named(without) -> None:
    registry = importlib.import_module("fsspec.registry")  # fsspec.registry is one of its values
    for scheme, package in (("s3", "s3fs"), ("gs", "gcsfs")):
        without(package)
        registry._registry.pop(scheme, None)
        with pytest.raises(MissingExtraError, match=f"Run: pip install {package}$") as caught:
            sources.read_lengths(f"{scheme}://bucket/a.csv")
        assert_one_clear_line(caught.value, f"{scheme}://bucket/a.csv")
        done = invoke("plan", f"{scheme}://bucket/a.csv", "--max-tokens", "64")
        assert done.exit_code == 2
        assert done.stderr.count("\n") == 1
        assert f"pip install {package}" in done.stderr


def test_fsspec_is_named(without) -> None:
    without("fsspec")
    with pytest.raises(MissingExtraError, match=r"Run: pip install 'batchwright\[sources\]'"):
        sources.read_lengths("memory://a.csv")


def test_one_short_column_of_a_wide_file_is_all_that_is_read(tmp_path) -> None:
    rng = np.random.default_rng(0)
    wide = {f"column_{k}": [rng.bytes(2_000) for _ in range(600)] for k in range(8)}
    table = pa.table({"before": wide["column_0"], "length": np.arange(600) % 97, **wide})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=200)
    with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=200)
    for name in ("a.parquet", "a.arrow"):
        uri = put(tmp_path / name, "counted")
        Counted.fetched = 0
        same(tmp_path / name, uri, column="length", cache=False)
        assert (tmp_path / name).stat().st_size > 10_000_000
        assert 1_000 < Counted.fetched < 200_000


def test_shards_are_opened_one_at_a_time(tmp_path, monkeypatch) -> None:
    (tmp_path / "shards").mkdir()
    for part in range(5):
        table = pa.table({"length": [part] * 3})
        pq.write_table(table, tmp_path / "shards" / f"{part}.parquet")
    uri, still_open, most = put(tmp_path / "shards", "counted"), set(), []
    opened, closed = CountedFile.__init__, CountedFile.close

    def begin(self, *given, **options) -> None:
        opened(self, *given, **options)
        still_open.add(self)
        most.append(len(still_open))

    def end(self) -> None:
        still_open.discard(self)
        closed(self)

    monkeypatch.setattr(CountedFile, "__init__", begin)
    monkeypatch.setattr(CountedFile, "close", end)
    assert sources.read_lengths(uri).tolist() == [k for k in range(5) for _ in range(3)]
    assert (max(most), len(still_open)) == (1, 0)


@pytest.fixture
def site(tmp_path, monkeypatch) -> str:
    """Serve the folder over HTTP, without parts of files, and return its address."""
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("name", ["data.jsonl", "data.csv.gz"])
def test_a_server_that_sends_whole_files(write, site: str, name: str) -> None:
    path = write(name, COLUMNS)
    same(path, f"{site}/{name}?token=1", column="length")


def test_what_such_a_server_cannot_serve(write, site: str) -> None:
    for name in ("data.parquet", "data.npy"):
        write(name, COLUMNS)
    for name in ("data.parquet", "data.npy", "missing.csv", "missing/*.csv"):
        with pytest.raises(SourceError) as caught:
            sources.read_lengths(f"{site}/{name}")
        assert f"{site}/{name}" in str(caught.value)


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """List the files that are opened from here on."""
    opened: list[str] = []
    real = files.open_file

    def open_file(path, **options):
        opened.append(str(path))
        return real(path, **options)

    monkeypatch.setattr(files, "open_file", open_file)
    return opened


@pytest.mark.parametrize("name", ["data.csv", "data.parquet"])
def test_lengths_are_kept_by_etag(write, name: str, reads, monkeypatch) -> None:
    uri = put(write(name, {"length": [1, 2]}), "counted")
    assert sources.read_lengths(uri).tolist() == [1, 2]
    Counted.fetched = 0
    assert sources.read_lengths(uri).tolist() == [1, 2]
    assert reads == [uri]
    assert Counted.fetched == 0
    put(write(name, {"length": [3, 4]}), "counted")
    assert sources.read_lengths(uri).tolist() == [3, 4]
    assert reads == [uri, uri]
    Counted.store["/other.csv"] = Counted.store["/" + name]


def test_lengths_are_kept_by_content_without_etags(write, reads) -> None:
    uri = put(write("data.csv", {"length": [1, 2]}))
    for _ in range(2):
        assert sources.read_lengths(uri).tolist() == [1, 2]
    assert reads == [uri]
    put(write("data.csv", {"length": [3, 4]}))
    assert sources.read_lengths(uri).tolist() == [3, 4]
    assert reads == [uri, uri]


@pytest.mark.parametrize("scheme", ["memory", "counted"])
@pytest.mark.parametrize("pattern", ["", "/*.csv", "/data.csv"])
def test_a_file_that_changes_while_it_is_read_is_not_kept(
    write, scheme: str, pattern: str, monkeypatch, cache_directory
) -> None:
    path = write("data.csv", {"length": [1, 2]})
    folder = f"{scheme}://folder"
    uris.written(f"{folder}/data.csv", path.read_bytes())
    real = files.open_file

    def open_file(file, **options):
        table = real(file, **options)
        uris.written(f"{folder}/data.csv", write("data.csv", {"length": [3, 4]}).read_bytes())
        return table

    monkeypatch.setattr(files, "open_file", open_file)
    sources.read_lengths(folder + pattern)
    assert not cache_directory.exists() or not list(cache_directory.iterdir())


def test_commands_take_uris(write, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    uri = put(write("data.jsonl", COLUMNS))
    planned = invoke("plan", uri, "--max-tokens", "600", "-o", "a.safetensors", "--json")
    assert planned.exit_code == 0, planned.stderr
    facts = json.loads(planned.stdout)
    assert (facts["source"], facts["num_tokens"]) == (uri, sum(COLUMNS["length"]))
    inspected = invoke("inspect", "a.safetensors", "memory://*.jsonl", "--json")
    assert json.loads(inspected.stdout)["num_tokens"] == sum(COLUMNS["length"])
    scored = invoke("score", uri, "--by", "rarity", "--column", "text", "-o", "a.npy")
    assert scored.exit_code == 0, scored.stderr
    assert len(np.load(tmp_path / "a.npy")) == 30


@pytest.mark.slow
def test_advice_on_a_uri(write) -> None:
    uri = put(write("data.jsonl", {"length": list(range(1, 300)), "text": ["to be"] * 299}))
    advised = invoke("advise", uri, "--text", "text", "--json")
    assert advised.exit_code == 0, advised.stderr


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("plan", "memory://no.csv", "--max-tokens", "9"), "no file or directory memory://no.csv"),
        (("plan", "memory://a.index", "--max-tokens", "9"), "copy it to this machine"),
        (
            ("plan", "memory://no.csv", "--max-tokens", "9", "-o", "s3://b/a"),
            "--output needs a file",
        ),
        (("score", "memory://no.csv", "--by", "length", "-o", "a.npy"), "memory://no.csv"),
        (("advise", "memory://no.csv"), "no file or directory memory://no.csv"),
    ],
)
def test_commands_refuse_in_one_line(tmp_path, monkeypatch, command, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    done = invoke(*command)
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert not list(tmp_path.iterdir())
