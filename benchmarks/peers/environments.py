"""An environment for each group of peers, made when it is first needed, under ``build/peers``."""

import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks import machine

PINS = Path(__file__).parent / "environments"
BUILT = machine.REPOSITORY / "build" / "peers"


class NotInstalledError(Exception):
    """An environment could not be made; says why in a line."""


def python_of(name: str, *, pins: Path = PINS, built: Path = BUILT) -> Path:
    """Return the interpreter of an environment, making the environment if its pins are new.

    The first paragraph of a pins file is installed with what it needs, the others exactly as they
    stand: what a planner does not import is left out.

    Raises:
        NotInstalledError: If the environment cannot be made.
    """
    wanted = (pins / f"{name}.txt").read_text(encoding="utf-8")
    folder = built / name
    python = folder / "bin" / "python"
    done = folder / "pins.txt"
    if done.is_file() and done.read_text(encoding="utf-8") == wanted:
        return python
    if folder.exists():
        shutil.rmtree(folder)
    _run(sys.executable, "-m", "venv", str(folder))
    first, *others = paragraphs(wanted)
    pip = (str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    _run(*pip, *first)
    for exact in others:
        _run(*pip, "--no-deps", "--no-build-isolation", *exact)
    done.write_text(wanted, encoding="utf-8")
    return python


def paragraphs(pins: str) -> list[list[str]]:
    """Split pins at empty lines, without comments."""
    found = []
    for block in pins.split("\n\n"):
        lines = [line.partition("#")[0].strip() for line in block.splitlines()]
        if any(lines):
            found.append([line for line in lines if line])
    return found


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise NotInstalledError((errors or done.stderr.splitlines() or ["pip failed"])[0])
