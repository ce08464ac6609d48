"""Runs under torchrun that are killed, and go on with other numbers of ranks: see tests/stress."""

import os
import sys
from pathlib import Path

import pytest

from tests.launched import run_anew

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_killed_run_goes_on_on_other_ranks_as_if_nothing_had_happened() -> None:
    paths = {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "tests.stress.elastic", "--fixed"]
    done = run_anew(command, cwd=ROOT, env=os.environ | paths)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "killed 4 times, 0 wrong" in done.stdout
