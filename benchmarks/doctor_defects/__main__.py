"""How many defects of training scripts the doctor finds, and what it says of repaired ones.

\b
python -m benchmarks.doctor_defects               ten minutes; writes results/doctor_defects.json
python -m benchmarks.doctor_defects --quick       a script for each framework, writes nothing
python -m benchmarks.doctor_defects --only NAME   one script, writes nothing

Each of the scripts under `scripts/` has one known defect, and is run twice under
`batchwright doctor --json`: as it is, and with `--repaired`. A defect counts as found if a finding
of its name is there; an error in a repaired script is false.
"""

from collections.abc import Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path

import click
from rich.table import Table

from benchmarks.doctor_defects.defects import DEFECTS, FRAMEWORKS, first_of_each
from benchmarks.doctor_defects.watching import Outcome, outcome_of
from benchmarks.reporting import output_path, progress_bar, table_console, write_result

NAMES = [each.name for each in DEFECTS]


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--only", type=click.Choice(NAMES), multiple=True, metavar="NAME", help="Of a script."
)
@click.option("--quick", is_flag=True, help="A script for each framework.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="At a time.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path))
def main(*, only: Sequence[str], quick: bool, jobs: int, output: Path | None) -> None:
    """Run the scripts, and show what was found."""
    chosen = first_of_each() if quick else DEFECTS
    if only:
        chosen = tuple(each for each in DEFECTS if each.name in only)
    outcomes = []
    with progress_bar() as bar, ThreadPool(jobs) as pool:
        shown = bar.add_task("scripts", total=len(chosen))
        for outcome in pool.imap(outcome_of, chosen):
            outcomes.append(outcome)
            bar.advance(shown)
            bar.refresh()
    console = table_console()
    console.print(table(outcomes))
    console.print(summary(outcomes))
    path = output_path("doctor_defects", output, quick=quick or bool(only))
    if path is not None:
        words = [
            " --quick" * quick,
            f" --jobs {jobs}" * (jobs > 1),
            *(f" --only {x}" for x in only),
        ]
        options = "".join(words)
        write_result(path, f"python -m benchmarks.doctor_defects{options}", figures(outcomes))


def figures(outcomes: Sequence[Outcome]) -> dict[str, object]:
    """Return what the result file keeps."""
    return {
        "scripts": len(outcomes),
        "frameworks": len({each.defect.framework for each in outcomes}),
        "found": sum(each.is_found for each in outcomes),
        "gone": sum(each.is_gone for each in outcomes),
        "false_errors": sum(len(each.repaired.errors) for each in outcomes),
        "outcomes": [each.as_json() for each in outcomes],
    }


def summary(outcomes: Sequence[Outcome]) -> str:
    """Say in a sentence what was found."""
    counts = figures(outcomes)
    return (
        f"found: {counts['found']} of {counts['scripts']}; gone when repaired: {counts['gone']}; "
        f"false errors: {counts['false_errors']}"
    )


def table(outcomes: Sequence[Outcome]) -> Table:
    """Make a row for each script, those of a framework under one another."""
    shown = Table(title="One defect each, and repaired")
    for header in ("framework", "script", "finding", "found", "repaired", "false errors"):
        shown.add_column(header)
    ranked = sorted(outcomes, key=lambda each: FRAMEWORKS.index(each.defect.framework))
    for each in ranked:
        defect = each.defect
        found = "failed" if each.broken.failure else "yes" if each.is_found else "NO"
        after = "failed" if each.repaired.failure else "gone" if each.is_gone else "still there"
        false = ", ".join(each.repaired.errors)
        shown.add_row(defect.framework, defect.name, defect.finding, found, after, false)
    return shown


if __name__ == "__main__":
    main()
