"""A bucket of a local S3 server: sources, cache and errors."""

import itertools
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from batchwright import sources
from batchwright.errors import SourceError, SourceNotFoundError
from batchwright.sources import files, uris
from tests.cli.command import invoke
from tests.patience import PATIENCE

from .conftest import pa, pq
from .test_damage import assert_one_clear_line

fsspec = pytest.importorskip("fsspec")
s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")
pytest.importorskip("moto.server", reason="moto[server] is not installed")

pytestmark = pytest.mark.slow

_NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> tuple[str, Path]:
    """Start a server of S3; return where it is, and the file in which it lists requests."""
    said = tmp_path_factory.mktemp("s3") / "requests.txt"
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-p", "0"]
    with said.open("w") as output, subprocess.Popen(command, stderr=output) as process:
        try:
            give_up = time.monotonic() + PATIENCE
            while not (found := re.search(r"http://127\.0\.0\.1:\d+", said.read_text())):
                assert process.poll() is None, said.read_text()
                assert time.monotonic() < give_up
                time.sleep(0.1)
            yield found[0], said
        finally:
            process.kill()


@pytest.fixture
def bucket(server, monkeypatch) -> str:
    """Make a bucket of this test's own, and return its URI."""
    options = {"endpoint_url": server[0], "key": "key", "secret": "secret"}
    monkeypatch.setitem(fsspec.config.conf, "s3", options)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    name = f"bucket-{next(_NUMBERS)}"
    fsspec.filesystem("s3").mkdir(name)
    yield f"s3://{name}"
    s3fs.S3FileSystem.clear_instance_cache()


def put_shards(bucket: str, tmp_path, parts=(0, 1, 2)) -> None:
    for part in parts:
        path = tmp_path / f"part-{part}.parquet"
        pq.write_table(pa.table({"length": np.arange(3) + 10 * part, "text": ["to be"] * 3}), path)
        uris.written(f"{bucket}/corpus/{path.name}", path.read_bytes())


@pytest.mark.parametrize("pattern", ["corpus", "corpus/", "corpus/*.parquet", "c*s/part-?.parquet"])
def test_shards(bucket: str, tmp_path, pattern: str) -> None:
    put_shards(bucket, tmp_path)
    lengths = sources.read_lengths(f"{bucket}/{pattern}", column="length")
    assert lengths.tolist() == [0, 1, 2, 10, 11, 12, 20, 21, 22]


def test_lengths_are_kept_until_a_file_changes(bucket: str, tmp_path, monkeypatch) -> None:
    put_shards(bucket, tmp_path)
    opened = []
    real = files.open_file

    def open_file(path, **options):
        opened.append(str(path))
        return real(path, **options)

    monkeypatch.setattr(files, "open_file", open_file)
    source = f"{bucket}/corpus/*.parquet"
    for _ in range(2):
        assert sources.read_lengths(source, column="text", measure="words").tolist() == [2] * 9
    assert len(opened) == 3
    path = tmp_path / "part-1.parquet"
    pq.write_table(pa.table({"length": [1, 1, 1], "text": ["or"] * 3}), path)
    uris.written(f"{bucket}/corpus/{path.name}", path.read_bytes())
    lengths = sources.read_lengths(source, column="text", measure="words")
    assert lengths.tolist() == [2, 2, 2, 1, 1, 1, 2, 2, 2]
    put_shards(bucket, tmp_path, parts=[3])
    assert len(sources.read_lengths(source, column="text", measure="words")) == 12


def test_stamps_follow_what_others_write(bucket: str) -> None:
    place = f"{bucket}/folder/a.bin"
    assert not uris.exists(place)
    uris.written(place, b"first")
    before = uris.stamp(place)
    assert uris.matches(f"{bucket}/folder/*") == [place]
    other = s3fs.S3FileSystem(skip_instance_cache=True, **fsspec.config.conf["s3"])
    other.pipe_file(place, b"other")
    assert uris.stamp(place) != before
    assert (uris.stamp(place)[0], uris.exists(f"{bucket}/folder")) == (5, True)
    with uris.opened(place) as file:
        assert (file.seek(-2, 2), file.read()) == (3, b"er")


def test_a_shard_takes_few_requests(bucket: str, server, tmp_path) -> None:
    rows = {"length": np.arange(3_000), "text": np.random.default_rng(0).bytes(900_000)}
    rows["text"] = [rows["text"][300 * k : 300 * k + 300] for k in range(3_000)]
    pq.write_table(pa.table(rows), tmp_path / "a.parquet", row_group_size=1_000)
    for part in range(40):
        uris.written(f"{bucket}/corpus/{part}.parquet", (tmp_path / "a.parquet").read_bytes())
    before = len(server[1].read_text().splitlines())
    assert len(sources.read_lengths(f"{bucket}/corpus/*.parquet", column="length")) == 120_000
    requests = server[1].read_text().splitlines()[before:]
    # Of each, the footer, and the column in three groups of rows; besides, listings.
    assert len([line for line in requests if "GET" in line and ".parquet HTTP" in line]) == 160
    assert len(requests) <= 160 + 10


def test_what_is_missing(bucket: str) -> None:
    for uri in (
        f"{bucket}/a.csv",
        f"{bucket}/*.csv",
        f"{bucket}-other/a.csv",
        f"{bucket}-other/*.csv",
    ):
        with pytest.raises(SourceNotFoundError) as caught:
            sources.read_lengths(uri)
        assert uri in str(caught.value)
    with pytest.raises(SourceNotFoundError, match="no folder or bucket"):
        uris.written(f"{bucket}-other/a.csv", b"1")


def test_a_truncated_file_is_refused_by_its_uri(bucket: str, tmp_path) -> None:
    put_shards(bucket, tmp_path)
    uri = f"{bucket}/corpus/part-1.parquet"
    uris.written(uri, (tmp_path / "part-1.parquet").read_bytes()[:-9])
    with pytest.raises(SourceError) as caught:
        sources.read_lengths(f"{bucket}/corpus", column="length")
    assert_one_clear_line(caught.value, uri)


def test_a_command(bucket: str, tmp_path) -> None:
    put_shards(bucket, tmp_path)
    done = invoke(
        "plan",
        f"{bucket}/corpus/*.parquet",
        "--length",
        "text",
        "--measure",
        "words",
        "--max-tokens",
        "8",
    )
    assert done.exit_code == 0, done.stderr
    assert "9" in done.stdout


def test_a_server_that_is_not_there(bucket: str, monkeypatch) -> None:
    more = {"endpoint_url": "http://127.0.0.1:9", "config_kwargs": {"retries": {"max_attempts": 0}}}
    monkeypatch.setitem(fsspec.config.conf, "s3", {**fsspec.config.conf["s3"], **more})
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(SourceError, match="127.0.0.1:9") as caught:
        sources.read_lengths(f"{bucket}/a.csv")
    assert_one_clear_line(caught.value, f"{bucket}/a.csv")
