"""The six applications, and three more jobs, under their strategies, in full.

\b
python -m benchmarks.applications                     an hour; writes results/applications/*.json
python -m benchmarks.applications --only translation  one of them
python -m benchmarks.applications --seeds 6           more seeds; those that are there stay
python -m benchmarks.applications --quick             small forms, one seed: minutes

Each is `batchwright compare` on a file of examples/, with three seeds and one thread. Interrupted,
it goes on with the next start. docs/applications quotes the six. The other jobs, with data that the
rules of advice were not made on, are for `python -m benchmarks.advice`.
"""

import subprocess
import sys
from pathlib import Path

import click

from benchmarks import machine
from benchmarks.reporting import RESULTS

APPLICATIONS = (
    "translation",
    "text_classification",
    "language_model",
    "vision_transformer",
    "image_classification",
    "speech_recognition",
)

MORE_JOBS = ("docstrings", "dictionary", "spoken_prompts")
"""Of these nothing was known when the rules of advice were chosen."""

JOBS = (*APPLICATIONS, *MORE_JOBS)

QUICK = machine.REPOSITORY / "build" / "applications"
"""Where results of small forms go."""


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", type=click.Choice(JOBS), multiple=True, help="These.")
@click.option("--seeds", type=click.IntRange(min=1), help="Of each.  [default: 3, quick 1]")
@click.option("--quick", is_flag=True, help="Small forms; results go to build/applications/.")
@click.option("--restart", is_flag=True, help="Measure anew.")
def main(*, only: tuple[str, ...], seeds: int | None, quick: bool, restart: bool) -> None:
    """Run them, one after the other."""
    for name in only or JOBS:
        result = result_of(name, quick=quick)
        result.parent.mkdir(parents=True, exist_ok=True)
        command = ["compare", task_of(name), "--threads", "1", "--output", str(result)]
        command += ["--seeds", str(seeds or (1 if quick else 3))]
        command += [*(["--quick"] if quick else []), *(["--restart"] if restart else [])]
        done = subprocess.run(
            [sys.executable, "-m", "batchwright", *command], cwd=machine.REPOSITORY, check=False
        )
        if done.returncode:
            sys.exit(done.returncode)


def task_of(name: str) -> str:
    """Return the file of a job, below the top of the repository."""
    return f"examples/applications/{name}.py"


def result_of(name: str, *, quick: bool = False) -> Path:
    """Return where the result of a job is written."""
    return (QUICK if quick else RESULTS / "applications") / f"{name}.json"


if __name__ == "__main__":
    main()
