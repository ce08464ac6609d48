"""The commands of a page's bash blocks: run, or, where that is not to be had in seconds, checked."""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from unittest.mock import patch

from packaging.requirements import Requirement

from tests.docs.blocks import ROOT
from tests.launched import launched, run_anew
from tests.patience import PATIENCE

PROGRAMS = {
    "batchwright": [sys.executable, "-m", "batchwright"],
    "python": [sys.executable],
    "torchrun": [sys.executable, "-m", "torch.distributed.run"],
}

# What is not run, and why. Of each, everything that can be checked is: see `checked`.
NOT_RUN = {
    r"pip install ": "fetches packages; that the extras exist is checked",
    r"batchwright compare examples/": "fetches data and takes minutes; tests/examples run the tasks",
    r"batchwright \w+ \w+://": "reads a bucket; tests/sources read one of a local server",
    r"batchwright compare mine.py --seeds": "takes minutes; its quick form is run",
    r"batchwright advise (mine|examples/\w+/\w+)\.py": "takes minutes; tests/advise run one",
    r"python -m benchmarks\.\w+( --quick)?$": "takes minutes to hours; what it found is committed",
}


def commands_of(code: str) -> Iterator[list[str]]:
    """Split a block into commands, each into words; comments are left out.

    Example:
        >>> list(commands_of("a --b 'c d'  # why\\n\\n# alone\\ne \\\\\\n  f\\n"))
        [['a', '--b', 'c d'], ['e', 'f']]
    """
    for line in code.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def reason_not_to_run(words: list[str]) -> str | None:
    """Say why a command is not run. None: it is."""
    line = " ".join(words)
    return next((why for pattern, why in NOT_RUN.items() if re.match(pattern, line)), None)


def run(words: list[str], folder: Path) -> str:
    """Run a command in a folder, make it fail loudly, and return what it prints.

    Ours runs in this process, which has loaded what it needs; tests/cli start it on its own.
    """
    assert words[0] in PROGRAMS, f"no way is known to run {' '.join(words)}"
    if words[0] == "batchwright":
        return _run_here(words, folder)
    command = [*PROGRAMS[words[0]], *words[1:]]
    start = run_anew if "-m" in words else launched  # a script, on one rank or several
    done = start(
        command,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])},
    )
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}{done.stderr}"
    return done.stdout


def _run_here(words: list[str], folder: Path) -> str:
    from batchwright.cli import main

    out, err = io.StringIO(), io.StringIO()
    # The doctor starts `python` and `torchrun`: those of this environment.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    with (
        contextlib.chdir(folder),
        redirect_stdout(out),
        redirect_stderr(err),
        patch.dict(os.environ, {"PATH": path}),
    ):
        code = main(words[1:])
    assert code == 0, f"{' '.join(words)}\n{out.getvalue()}{err.getvalue()}"
    return out.getvalue()


def checked(words: list[str]) -> None:
    """Check what can be checked of a command without running it."""
    match words:
        case ["pip", "install", what]:
            requirement = Requirement(what.replace(".[", "batchwright["))  # of a clone
            project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
            assert requirement.name == project["project"]["name"]
            assert requirement.extras <= set(project["project"]["optional-dependencies"])
        case _:
            told = _help(*_program(words))
            for word in words:
                if word.startswith("-") and word != "-m":
                    option = word.partition("=")[0]
                    assert re.search(rf"(?<![\w-]){option}(?![\w-])", told), (
                        f"{' '.join(words)}: there is no option {option}"
                    )


def _program(words: list[str]) -> list[str]:
    """Return the part of a command that its options are those of."""
    size = {"-m": 3}.get(words[1], 2)
    return words[:size]


@cache
def _help(*words: str) -> str:
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    done = subprocess.run(
        [*PROGRAMS[words[0]], *words[1:], "--help"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
