"""A share of `tests.stress.files`, and that it sees what it should."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.stress import files
from tests.stress.saved_files import Case, Kind

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_damaged_files_are_refused_in_one_line():
    # In a process of its own: what this one holds would count as theirs.
    command = (sys.executable, "-m", "tests.stress.files", "--cases", "100", "--jobs", "1")
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout
    assert all(kind.name in ended.stdout for kind in files.KINDS)


def fail(code=0, out="", err="", waste=lambda: None, refused=None):
    def run():
        import sys

        waste()
        print(out, end="")
        print(err, end="", file=sys.stderr)
        return code

    return Kind("bad", lambda folder, rng: Case("", run, lambda out: refused))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (fail(), None),
        (fail(2, err="one line\n"), None),
        (fail(1, err="one line\n"), "exit code 1"),
        (fail(2), "not one line"),
        (fail(2, err="one\ntwo\n"), "not one line"),
        (fail(2, err="\x1b[31mred\n"), "control characters"),
        (fail(2, err="one line\n", out="half"), "output before an error"),
        (fail(err="a warning\n"), "on standard error"),
        (fail(waste=lambda: 1 / 0), "ZeroDivisionError"),
        (fail(waste=lambda: b"1" * (1200 << 20)), "MB"),
        (fail(waste=lambda: b"1" * (1 << 40)), "MemoryError"),
        (fail(refused="another plan"), "another plan"),
    ],
)
def test_whatever_ends_otherwise_is_seen(kind, wrong, monkeypatch):
    monkeypatch.setattr(files, "KINDS", (kind,))
    found = files.run_case(0)
    assert found.wrong is None if wrong is None else wrong in found.wrong
