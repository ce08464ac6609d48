"""The bar: on standard error, on a terminal, and only when it takes a while."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from batchwright import sources
from batchwright.errors import MissingExtraError
from batchwright.sources import progress
from batchwright.sources.progress import progress_bar

READ = """
import sys
sys.path[:0] = {path!r}
import time
from batchwright import sources
from batchwright.sources import progress
if not {seconds}:
    progress._PATIENCE_SECONDS = 10_000  # quick on any machine
def tokenizer(texts):
    time.sleep({seconds})
    return [1] * len(texts)
n = sources.read_lengths(sys.argv[1], measure="tokens", tokenizer=tokenizer, progress={progress}).sum()
print(n)
"""


def run_on_a_terminal(file: Path, *, seconds: float, progress: bool | None) -> tuple[str, str]:
    """Return what a reading process writes to standard output and to a terminal."""
    leader, follower = pty.openpty()
    code = READ.format(path=sys.path, seconds=seconds, progress=progress)
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(file)],
        stdout=subprocess.PIPE,
        stderr=follower,
        env=environment,
    ) as process:
        os.close(follower)
        seen = b""
        while True:
            try:
                data = os.read(leader, 4096)
            except OSError:  # how a terminal says that its other end is closed
                break
            if not data:
                break
            seen += data
        output = process.stdout.read()
    os.close(leader)
    assert process.returncode == 0, seen.decode()
    return output.decode(), seen.decode()


@pytest.mark.slow
def test_it_is_shown_on_a_terminal_when_reading_takes_long(write) -> None:
    path = write("data.parquet", {"text": ["a"] * 5000})
    output, seen = run_on_a_terminal(path, seconds=0.4, progress=None)
    assert output == "5000\n"
    assert "Reading data.parquet" in seen
    assert "%" in seen


@pytest.mark.slow
@pytest.mark.parametrize(("seconds", "progress"), [(0.0, None), (0.4, False)])
def test_it_is_not_shown_when_quick_or_not_wanted(write, seconds, progress) -> None:
    path = write("data.parquet", {"text": ["a"] * 5000})
    assert run_on_a_terminal(path, seconds=seconds, progress=progress) == ("5000\n", "")


@pytest.mark.slow
def test_it_can_be_forced(write) -> None:
    path = write("data.parquet", {"text": ["a"] * 5000})
    output, seen = run_on_a_terminal(path, seconds=0.0, progress=True)
    assert output == "5000\n"
    assert "Reading data.parquet" in seen


def test_it_is_not_shown_where_there_is_no_terminal(write, capfd) -> None:
    pytest.importorskip("rich")
    path = write("data.parquet", {"text": ["a"] * 5000})
    sources.read_lengths(path, measure="words")
    assert capfd.readouterr() == ("", "")
    sources.read_lengths(path, measure="words", cache=False, progress=True)
    output, errors = capfd.readouterr()
    assert output == ""
    assert "Reading data.parquet" in errors


@pytest.mark.parametrize("name", ["data.parquet", "stream.arrow", "data.jsonl", "data.csv"])
def test_the_fraction_grows_to_one(write, name, monkeypatch) -> None:
    path = write(name, {"text": ["a b"] * 5000})
    seen: list[float] = []

    class Recorder:
        def __enter__(self):
            return seen.append

        def __exit__(self, *_) -> None:
            pass

    from batchwright.sources import read

    monkeypatch.setattr(read, "progress_bar", lambda *_, **__: Recorder())
    sources.read_lengths(path, tokenizer=lambda texts: [2] * len(texts))
    assert len(seen) > 4
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(1.0)


def test_a_name_with_brackets_is_shown_as_it_is(capfd) -> None:
    pytest.importorskip("rich")
    with progress_bar("Reading [bold]a[/].csv", show=True) as advance:
        advance(0.5)
    assert "Reading [bold]a[/].csv" in capfd.readouterr().err


def test_without_rich_it_is_left_out_unless_asked_for(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    with progress_bar("Reading", show=None) as advance:
        advance(1.0)
    with (
        pytest.raises(MissingExtraError, match=r"batchwright\[sources\]"),
        progress_bar("x", show=True),
    ):
        pass
