"""The command, run in this process or in one of its own, on the files of `conftest`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from click.testing import CliRunner

from batchwright.cli.group import batchwright
from tests.patience import PATIENCE

SOURCE = str(Path(__file__).resolve().parents[2] / "src")
LENGTHS = np.clip(np.random.default_rng(0).lognormal(4, 1, 2_000), 1, 512).astype(np.int32)
LENGTHS[17] = 512
PLAN = ("plan", "lengths.npy")
BUDGET = (*PLAN, "--max-tokens", "2048")


def invoke(*args):
    return CliRunner().invoke(batchwright, args, prog_name="batchwright")


def facts_of(*args):
    result = invoke(*args, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def start(*args, code=None, stdout=subprocess.PIPE, **environment):
    """Start the command, or some code, in a process of its own."""
    run = ["-m", "batchwright"] if code is None else ["-c", code]
    cleared = {"COLUMNS", "NO_COLOR", "FORCE_COLOR", "PYTHONIOENCODING"}
    inherited = {name: value for name, value in os.environ.items() if name not in cleared}
    return subprocess.Popen(
        [sys.executable, "-W", "error", *run, *args],
        env=inherited | {"PYTHONPATH": SOURCE, "PYTHONUTF8": "1"} | environment,
        stdout=stdout,
        stderr=subprocess.PIPE,
    )


def run(*args, **environment):
    process = start(*args, **environment)
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err
