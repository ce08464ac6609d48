"""What it costs a run to be watched, and that its weights are the same.

\b
python -m benchmarks.doctor_overhead            minutes; writes results/doctor_overhead.json
python -m benchmarks.doctor_overhead --quick    one round of each, writes nothing

The same script runs in turns: as it is, as `batchwright doctor` runs it, and as it is once more,
which shows how far times differ by chance. It times its training loop, and prints a digest of its
weights, which has to be the same. With one process, with two workers that load data, and with two
ranks.
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
@click.option("--rounds", type=click.IntRange(min=1), show_default="10, or 1 with --quick")
@click.option("--updates", type=click.IntRange(min=2), default=50, show_default=True)
@click.option("--quick", is_flag=True, help="One round of each.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path))
def main(*, rounds: int | None, updates: int, quick: bool, output: Path | None) -> None:
    """Run the rounds, and show the ratios."""
    number = rounds or (1 if quick else 10)
    rows = []
    with progress_bar() as bar:
        shown = bar.add_task("rounds", total=number * len(CASES))
        for name, command in CASES.items():
            ratios, controls, alike = [], [], 0
            for place in range(number):
                ratio, control, is_same = one_round([*command, "--updates", str(updates)], place)
                ratios.append(ratio)
                controls.append(control)
                alike += is_same
                bar.advance(shown)
                bar.refresh()
            rows.append(
                {
                    "case": name,
                    "median": statistics.median(ratios),
                    "control": statistics.median(controls),
                    "same": alike,
                    "ratios": ratios,
                    "controls": controls,
                }
            )
    console = table_console()
    for row in rows:
        console.print(
            f"{row['case']}: {row['median']:.3f} of the time ({listed(row['ratios'])}); as it is "
            f"once more {row['control']:.3f} ({listed(row['controls'])}); "
            f"the same weights in {row['same']} of {number}",
            highlight=False,
        )
    path = output_path("doctor_overhead", output, quick=quick)
    if path is not None:
        command = f"python -m benchmarks.doctor_overhead --rounds {number} --updates {updates}"
        write_result(path, command, {"rounds": number, "within": WITHIN, "rows": rows})


def one_round(command: list[str], place: int) -> tuple[float, float, bool]:
    """Run a command watched, and twice as it is: each of the three is first in turn."""
    doctor = [sys.executable, "-m", "batchwright", "doctor", "--seconds", "600", "--"]
    ways = {"alone": command, "watched": [*doctor, *command], "again": command}
    first = place % len(ways)
    seconds, digests = {}, set()
    for name in [*ways, *ways][first : first + len(ways)]:
        done = subprocess.run(
            ways[name],
            env=os.environ | {"PYTHONPATH": str(machine.REPOSITORY / "src")},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        spent, digest = done.stdout.splitlines()[0].split()
        seconds[name] = float(spent)
        digests.add(digest)
    watched, again = (seconds[name] / seconds["alone"] for name in ("watched", "again"))
    return watched, again, len(digests) == 1


def listed(ratios: list[float]) -> str:
    """Write ratios from the least to the largest."""
    return ", ".join(f"{each:.3f}" for each in sorted(ratios))


if __name__ == "__main__":
    main()
