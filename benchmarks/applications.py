"""The six applications under their strategies, in full: what docs/applications quotes.

\b
python -m benchmarks.applications                     an hour; writes results/applications/*.json
python -m benchmarks.applications --only translation  one of them
python -m benchmarks.applications --seeds 6           more seeds; those that are there stay

Each is `batchwright compare` on a file of examples/, with three seeds and one thread. Interrupted,
it goes on with the next start.
"""

import subprocess
import sys

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


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", type=click.Choice(APPLICATIONS), multiple=True, help="These.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Of each.")
@click.option("--restart", is_flag=True, help="Measure anew.")
def main(*, only: tuple[str, ...], seeds: int, restart: bool) -> None:
    """Run them, one after the other."""
    for name in only or APPLICATIONS:
        result = RESULTS / "applications" / f"{name}.json"
        result.parent.mkdir(parents=True, exist_ok=True)
        task = f"examples/applications/{name}.py"
        command = ["compare", task, "--seeds", str(seeds), "--threads", "1"]
        command += ["--output", str(result), *(["--restart"] if restart else [])]
        done = subprocess.run(
            [sys.executable, "-m", "batchwright", *command], cwd=machine.REPOSITORY, check=False
        )
        if done.returncode:
            sys.exit(done.returncode)


if __name__ == "__main__":
    main()
