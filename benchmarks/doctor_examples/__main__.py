"""What the doctor says of training scripts that are written as the libraries' examples are.

\b
python -m benchmarks.doctor_examples               minutes; writes results/doctor_examples.json
python -m benchmarks.doctor_examples --only NAME   one script, writes nothing
python -m benchmarks.doctor_examples --alone       runs the scripts without the doctor

Six scripts for Transformers, Accelerate and Lightning, on real texts and with small models, run as
they are under `batchwright doctor --json`. Every finding was checked by hand: `checked.py`.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from batchwright.doctor.diagnosis import diagnose
from batchwright.doctor.reading import read_run
from batchwright.report.diagnosed import Diagnosed
from benchmarks import machine
from benchmarks.doctor_examples.checked import CHECKED
from benchmarks.doctor_examples.data import FOLDER, write_data
from benchmarks.doctor_examples.examples import EXAMPLES, Example
from benchmarks.reporting import output_path, progress_bar, table_console, write_result

NAMES = [each.name for each in EXAMPLES]

LIMIT = 500.0
"""Seconds that a script is watched at most."""

_END = 2_000
"""Characters of the messages of a script that failed."""


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--only", type=click.Choice(NAMES), multiple=True, metavar="NAME", help="Of a script."
)
@click.option("--jobs", type=click.IntRange(min=1), default=2, show_default=True, help="At a time.")
@click.option("--quick", is_flag=True, help="Write nothing.")
@click.option("--alone", is_flag=True, help="Run the scripts without the doctor.")
@click.option(
    "--keep", type=click.Path(file_okay=False, path_type=Path), help="Keep what was recorded."
)
@click.option(
    "--kept",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Run nothing, and check what was recorded before.",
)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path))
def main(
    *,
    only: Sequence[str],
    jobs: int,
    quick: bool,
    alone: bool,
    keep: Path | None,
    kept: Path | None,
    output: Path | None,
) -> None:
    """Run the scripts, and show what was found."""
    chosen = [each for each in EXAMPLES if not only or each.name in only]
    data = FOLDER if kept else write_data({each.model for each in chosen})

    def run(example: Example) -> dict[str, Any] | None:
        if alone:
            return run_alone(example, data)
        return recorded(example, kept) if kept else watched(example, data, keep)

    found = []
    with progress_bar() as bar, ThreadPoolExecutor(jobs) as pool:
        shown = bar.add_task("scripts", total=len(chosen))
        for result in pool.map(run, chosen):
            found.append(result)
            bar.advance(shown)
            bar.refresh()
    if alone:
        return
    table_console().print(table(found))
    path = output_path("doctor_examples", output, quick=quick or bool(only))
    if path is not None:
        options = " --kept FOLDER" * bool(kept) + "".join(f" --only {name}" for name in only)
        command = f"python -m benchmarks.doctor_examples{options}"
        write_result(path, command, {"scripts": len(found), "rows": found})


def run_alone(example: Example, data: Path) -> None:
    """Run a script as it is."""
    with tempfile.TemporaryDirectory() as output:
        command = example.command(data, Path(output))
        subprocess.run(command, env=environment(data), stdout=sys.stderr, check=True)


def watched(example: Example, data: Path, keep: Path | None) -> dict[str, Any]:
    """Run a script under the doctor.

    Raises:
        click.ClickException: If the script fails, or the doctor does.
    """
    options = ["--json", "--seconds", f"{LIMIT:g}"]
    if keep is not None:
        options += ["--keep", str(keep / example.name)]
    with tempfile.TemporaryDirectory() as output:
        command = [
            *(sys.executable, "-m", "batchwright", "doctor", *options, "--"),
            *example.command(data, Path(output)),
        ]
        done = subprocess.run(
            command, env=environment(data), capture_output=True, text=True, check=False
        )
    said = json.loads(done.stdout) if done.returncode == 0 and done.stdout else {}
    if said.get("exit_code", 1):  # None: it was ended
        raise click.ClickException(f"{example.name} failed: …{done.stderr[-_END:]}")
    return figures(example, said)


def recorded(example: Example, kept: Path) -> dict[str, Any]:
    """Check what was recorded of a script before."""
    diagnosis = diagnose(read_run(kept / example.name))
    return figures(example, Diagnosed(diagnosis).as_json())


def figures(example: Example, said: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the result file keeps of a report."""
    return {
        "script": example.name,
        "library": example.library,
        "about": example.about,
        **{key: said[key] for key in ("verdict", "findings", "watched", "gain", "notes")},
    }


def environment(data: Path) -> dict[str, str]:
    """Return the environment of a script: this checkout, and no hub."""
    sources = os.pathsep.join([str(machine.REPOSITORY / "src"), str(machine.REPOSITORY)])
    return os.environ | {
        "PYTHONPATH": sources,
        "HF_HOME": str(data / "cache"),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "1",  # what else the machine does disturbs more threads most
    }


def table(found: Sequence[dict[str, Any]]) -> Table:
    """Make a row for each finding."""
    shown = Table(title="Scripts as the libraries' examples are", show_lines=True)
    for header in ("script", "level", "finding", "figure", "checked by hand"):
        shown.add_column(header)
    for row in found:
        for each in row["findings"]:
            checked = CHECKED.get((row["script"], each["name"]), "NOT YET")
            shown.add_row(row["script"], each["level"], each["name"], each["figure"], checked)
        if not row["findings"]:
            shown.add_row(row["script"], "", "nothing found", "", "")
    return shown


if __name__ == "__main__":
    main()
