"""Reports fit their terminal: its width, its characters, its colours."""

import os
import subprocess
import sys

import numpy as np
import pytest

from tests.cli.command import BUDGET, LENGTHS, SOURCE, invoke, run
from tests.patience import PATIENCE


def test_a_terminal_of_60_columns_that_knows_ascii_alone(files):
    name = "länge.npy"
    np.save(files / name, LENGTHS)
    code, out, err = run(
        "plan", name, "--max-tokens", "2048", "--world-size", "2",
        COLUMNS="60", PYTHONIOENCODING="ascii",
    )  # fmt: skip
    assert (code, err) == (0, b"")
    assert out.isascii()
    assert max(map(len, out.splitlines())) <= 60
    assert b"l?nge.npy" in out
    code, _, err = run("plan", "größe.npy", "--max-tokens", "9", PYTHONIOENCODING="ascii")
    assert code == 2
    assert err.isascii()
    assert err.count(b"\n") == 1


@pytest.mark.parametrize("columns", ["1", "20", "80", "120", "500"])
def test_a_report_fits_its_terminal(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    lines = invoke(*BUDGET).stdout.splitlines()
    assert max(map(len, lines)) == min(max(int(columns), 60), 96)


def test_no_colours_where_there_is_no_terminal():
    assert "\x1b" not in invoke(*BUDGET).stdout


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_colours_in_a_terminal_unless_refused(no_color, coloured):
    import pty

    leader, follower = pty.openpty()
    environment = os.environ | {"PYTHONPATH": SOURCE, "TERM": "xterm", "PYTHONUTF8": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "batchwright", *BUDGET],
        env=environment | {"NO_COLOR": no_color, "COLUMNS": "80"},
        stdout=follower,
        stdin=subprocess.DEVNULL,
    )
    os.close(follower)
    out = b""
    try:
        while piece := os.read(leader, 1 << 16):
            out += piece
    except OSError:  # how Linux says that the other side is closed
        pass
    os.close(leader)
    assert process.wait(PATIENCE) == 0
    assert (b"\x1b[36m" in out) == coloured
    assert b"this plan" in out
