"""Scripts that are run as they are, and watched."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batchwright.doctor.notes import notes_of
from batchwright.doctor.reading import read_run
from batchwright.doctor.records import Run
from tests.launched import launched
from tests.patience import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "src" / "batchwright" / "doctor" / "watch" / "site"

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")


def run_script(
    script: Path, folder: Path, *words: object, ranks: int = 1, **options: int
) -> tuple[Run, str]:
    """Run a script watched; return what was seen, and what it printed.

    Its process is forked from one that has imported what it imports: hooks come after that.
    """
    folder.mkdir(exist_ok=True)
    command = [sys.executable, *_launch(ranks), script, *words]
    done = launched(command, env=os.environ | _variables(folder, options))
    return read_run(folder, exit_code=done.returncode), done.stdout + done.stderr


def watched(words: list[object], folder: Path, **options: int) -> tuple[Run, str]:
    """Run Python with these words, watched from its start."""
    folder.mkdir(exist_ok=True)
    paths = os.pathsep.join([str(SITE), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        env=os.environ | {"PYTHONPATH": paths} | _variables(folder, options),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return read_run(folder, exit_code=done.returncode), done.stdout + done.stderr


def run_alone(script: Path, *words: object, ranks: int = 1) -> str:
    """Run a script without being watched."""
    done = launched([sys.executable, *_launch(ranks), script, *words])
    assert done.returncode == 0, done.stderr
    return done.stdout


def forked(command: Sequence[str], *, folder: Path, **options: Any) -> Run:
    """Watch a command as `batchwright.doctor.launching.watch` does, by a fork as `run_script`.

    Args:
        command: A script and its words, behind Python or torchrun; or a module of benchmarks.
        folder: Where its processes write.
        **options: Of `watch`. Its seconds are not looked at, and what the script prints is lost.
    """
    named = ("updates", "epochs", "kill", "kill_after_save", "workers")
    chosen = {name: options[name] for name in named if options.get(name) is not None}
    folder.mkdir(parents=True, exist_ok=True)
    variables = os.environ | (options.get("env") or {}) | _variables(folder, chosen)
    done = launched(as_script(command), env=variables)
    run = read_run(folder, command=command, seconds=1.0, exit_code=done.returncode)
    ended = {each.ended for each in run.ranks}
    stopped = next((name for name in ("updates", "epochs") if name in ended), "run")
    run = replace(run, stopped=stopped)
    return replace(run, notes=(*run.notes, *notes_of(run)))


def as_script(command: Sequence[str]) -> list[str]:
    """Name a module of the benchmarks by its file."""
    if command[1] == "-m" and command[2].startswith("benchmarks."):
        file = ROOT / f"{command[2].replace('.', '/')}.py"
        return [command[0], str(file), *command[3:]]
    return list(command)


def fork_what_is_watched(
    monkeypatch: pytest.MonkeyPatch, folder: Path, *places: str
) -> list[dict[str, Any]]:
    """Have the doctor fork what it watches, in this process; return the options of each run.

    Args:
        monkeypatch: The fixture.
        folder: Where runs write that name no folder.
        *places: Names of `watch` in other modules.
    """
    seen: list[dict[str, Any]] = []

    def watch(command: Sequence[str], **options: Any) -> Run:
        seen.append(options)
        place = options.get("folder") or folder / f"events {len(seen)}"
        return forked(command, **(options | {"folder": Path(place)}))

    for name in (
        *places,
        "batchwright.cli.doctor.watch",
        "batchwright.doctor.resuming.check.watch",
    ):
        monkeypatch.setattr(name, watch)
    return seen


def _variables(folder: Path, options: dict[str, Any]) -> dict[str, str]:
    return {
        "BATCHWRIGHT_DOCTOR": str(folder),
        "BATCHWRIGHT_DOCTOR_OPTIONS": json.dumps(options),
        "OMP_NUM_THREADS": "1",
    }


def _launch(ranks: int) -> tuple[object, ...]:
    return () if ranks == 1 else (*TORCHRUN, ranks)
