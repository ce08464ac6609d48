"""What it costs a run to be watched, and that its weights are the same.

\b
python -m benchmarks.doctor_overhead            minutes; writes results/doctor_overhead.json
python -m benchmarks.doctor_overhead --quick    one pair of each, writes nothing

The same script runs in turns: as it is, and as `batchwright doctor` runs it. It times its training
loop, and prints a digest of its weights, which has to be the same. With one process, with two
workers that load data, and with two ranks.
"""

import os
import statistics
import subprocess
import sys
from pathlib import Path

import click

from benchmarks import machine
from benchmarks.reporting import output_path, progress_bar, table_console, write_result

JOB = Path(__file__).with_name("job.py")

CASES = {
    "one process": [sys.executable, str(JOB)],
    "two workers": [sys.executable, str(JOB), "--workers", "2"],
    "two ranks": [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *(str(JOB), "--distributed"),
    ],
}

WITHIN = 1.03


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--pairs", type=click.IntRange(min=1), show_default="10, or 1 with --quick")
@click.option("--updates", type=click.IntRange(min=1), default=50, show_default=True)
@click.option("--quick", is_flag=True, help="One pair of each.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path))
def main(*, pairs: int | None, updates: int, quick: bool, output: Path | None) -> None:
    """Run the pairs, and show the ratios."""
    number = pairs or (1 if quick else 10)
    rows = []
    with progress_bar() as bar:
        shown = bar.add_task("pairs", total=number * len(CASES))
        for name, command in CASES.items():
            ratios, alike = [], 0
            for place in range(number):
                ratio, is_same = pair([*command, "--updates", str(updates)], place)
                ratios.append(ratio)
                alike += is_same
                bar.advance(shown)
                bar.refresh()
            rows.append(
                {"case": name, "median": statistics.median(ratios), "same": alike, "ratios": ratios}
            )
    console = table_console()
    for row in rows:
        ratios = ", ".join(f"{each:.3f}" for each in sorted(row["ratios"]))
        console.print(
            f"{row['case']}: {row['median']:.3f} of the time ({ratios}); "
            f"the same weights in {row['same']} of {number}",
            highlight=False,
        )
    path = output_path("doctor_overhead", output, quick=quick)
    if path is not None:
        command = f"python -m benchmarks.doctor_overhead --pairs {number} --updates {updates}"
        write_result(path, command, {"pairs": number, "within": WITHIN, "rows": rows})


def pair(command: list[str], place: int) -> tuple[float, bool]:
    """Run a command alone and watched; every other time, watched first."""
    doctor = [sys.executable, "-m", "batchwright", "doctor", "--seconds", "600", "--"]
    printed = {}
    for is_watched in (False, True) if place % 2 == 0 else (True, False):
        done = subprocess.run(
            [*doctor, *command] if is_watched else command,
            env=os.environ | {"PYTHONPATH": str(machine.REPOSITORY / "src")},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        seconds, digest = done.stdout.splitlines()[0].split()
        printed[is_watched] = float(seconds), digest
    (alone, own), (watched, other) = printed[False], printed[True]
    return watched / alone, own == other


if __name__ == "__main__":
    main()
