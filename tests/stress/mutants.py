"""Change the source in small wrong ways, one at a time, and check that the tests notice.

    python -m tests.stress.mutants              all of them, two at a time
    python -m tests.stress.mutants --only 3 17  some
    python -m tests.stress.mutants --list       what each changes

A mutant replaces one piece of text in one file of a copy of the repository. It is caught if the
tests named beside it fail there. The text must occur exactly once, or the mutant is out of date.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tests.stress.mutant_list import MUTANTS, Mutant

REPOSITORY = Path(__file__).resolve().parents[2]
COPIED = ("src", "tests", "examples", "benchmarks", "docs", "pyproject.toml", "README.md")


class Outcome(NamedTuple):
    """What the tests said of a mutant."""

    number: int
    mutant: Mutant
    caught: bool
    said: str


def outcome(number: int, mutant: Mutant, folder: Path) -> Outcome:
    """Apply a mutant to the copy in `folder`, run its tests, and undo it."""
    path = folder / "src" / "batchwright" / mutant.file
    original = path.read_text(encoding="utf-8")
    if original.count(mutant.old) != 1:
        found = original.count(mutant.old)
        return Outcome(number, mutant, False, f"out of date: its text occurs {found} times")
    path.write_text(original.replace(mutant.old, mutant.new), encoding="utf-8")
    try:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"),
                *("-p", "no:benchmark", "--no-header"),
                *shlex.split(mutant.tests),
            ],
            cwd=folder,
            env={
                **os.environ,
                "CI": "true",
                "PYTHONPATH": os.pathsep.join(map(str, (folder / "src", folder))),
            },
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        path.write_text(original, encoding="utf-8")
    said = done.stdout.strip().splitlines()
    # 1: tests failed; 2 and more: pytest could not run them.
    return Outcome(number, mutant, done.returncode == 1, said[-1] if said else done.stderr[-200:])


def outcomes(chosen: list[tuple[int, Mutant]], jobs: int) -> Iterator[Outcome]:
    """Run mutants, each in a copy of its own."""
    with tempfile.TemporaryDirectory() as base, ThreadPoolExecutor(jobs) as pool:
        folders = [Path(base) / str(job) for job in range(jobs)]
        for folder in folders:
            for name in COPIED:
                source = REPOSITORY / name
                if source.is_dir():
                    shutil.copytree(
                        source, folder / name, ignore=shutil.ignore_patterns("__pycache__")
                    )
                else:
                    shutil.copy(source, folder / name)
        free = folders.copy()

        def run(each: tuple[int, Mutant]) -> Outcome:
            folder = free.pop()
            try:
                return outcome(*each, folder)
            finally:
                free.append(folder)

        yield from pool.map(run, chosen)


def main() -> int:
    """Run the mutants; exit code 1 if one was not caught."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", type=int, nargs="+", help="numbers of mutants")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--list", action="store_true", help="what each changes")
    arguments = parser.parse_args()
    numbered = list(enumerate(MUTANTS, 1))
    chosen = [each for each in numbered if not arguments.only or each[0] in arguments.only]
    missed = 0
    for number, mutant in chosen if arguments.list else ():
        print(f"{number:3} {mutant.file}: {mutant.what}")
    if arguments.list:
        return 0
    for each in outcomes(chosen, arguments.jobs):
        missed += not each.caught
        verdict = "caught" if each.caught else "MISSED"
        print(
            f"{each.number:3} {verdict} {each.mutant.file}: {each.mutant.what}: {each.said}",
            flush=True,
        )
    print(f"{len(chosen) - missed} of {len(chosen)} caught")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
