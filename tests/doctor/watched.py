"""Scripts that are run as they are, and watched."""

import json
import os
import subprocess
import sys
from pathlib import Path

from batchwright.doctor.reading import read_run
from batchwright.doctor.records import Run
from tests.patience import PATIENCE

SITE = Path(__file__).parents[2] / "src" / "batchwright" / "doctor" / "watch" / "site"

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")


def run_script(
    script: Path, folder: Path, *words: object, ranks: int = 1, **options: int
) -> tuple[Run, str]:
    """Run a script watched; return what was seen, and what it printed."""
    return watched([*_launch(ranks), script, *words], folder, **options)


def watched(words: list[object], folder: Path, **options: int) -> tuple[Run, str]:
    """Run Python with these words, watched."""
    folder.mkdir(exist_ok=True)
    environment = {
        "BATCHWRIGHT_DOCTOR": str(folder),
        "BATCHWRIGHT_DOCTOR_OPTIONS": json.dumps(options),
        "PYTHONPATH": os.pathsep.join([str(SITE), os.environ.get("PYTHONPATH", "")]),
    }
    done = _run(words, environment)
    return read_run(folder, exit_code=done.returncode), done.stdout + done.stderr


def run_alone(script: Path, *words: object, ranks: int = 1) -> str:
    """Run a script without being watched."""
    done = _run([*_launch(ranks), script, *words], {})
    assert done.returncode == 0, done.stderr
    return done.stdout


def _launch(ranks: int) -> tuple[object, ...]:
    return () if ranks == 1 else (*TORCHRUN, ranks)


def _run(words: list[object], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, words)],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
