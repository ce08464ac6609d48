"""What `doctor` predicts of planned batches, beside what they then do, on four jobs.

\b
python -m benchmarks.doctor_gains            15 minutes; writes results/doctor_gains.json
python -m benchmarks.doctor_gains --quick    one round, few samples and updates; writes nothing

Each job is a script with random batches: a plain loop, one that accumulates, Trainer, accelerate.
`doctor` watches it as it is. Then the same script trains in the planned batches that are advised,
and counts its own tokens and seconds. All on one core, in several rounds: machines are faster at
one time than at another, and the median round counts.
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from batchwright.doctor.gains import gain_of
from batchwright.doctor.launching import watch
from benchmarks import machine
from benchmarks.reporting import output_path, progress_bar, table_console, write_result

JOBS = ("docstrings", "functions", "glosses", "translations")

PADDING = 0.01
"""Predicted padding may be so far from what is seen."""

SPEED = 0.15
"""Predicted tokens a second may be so far from what is seen, as a share of that."""

Facts = dict[str, Any]


class JobError(RuntimeError):
    """A job could not be run, or nothing could be predicted of it."""


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="Few samples and updates.")
@click.option("--job", "jobs", multiple=True, type=click.Choice(JOBS), help="Only these.")
@click.option(
    "--updates",
    type=click.IntRange(min=1),
    show_default="120; 30 with --quick",
    help="That are watched, and measured.",
)
@click.option(
    "--rounds", type=click.IntRange(min=1), show_default="3; 1 with --quick", help="Of each job."
)
@click.option("--output", type=click.Path(path_type=Path), help="Where to write the JSON.")
def main(
    *,
    quick: bool,
    jobs: tuple[str, ...],
    updates: int | None,
    rounds: int | None,
    output: Path | None,
) -> None:
    """Run the jobs, one after the other."""
    samples = 400 if quick else None
    rounds = rounds or (1 if quick else 3)
    updates = updates or (30 if quick else 120)
    found = []
    try:
        with machine.one_core() as pinned, progress_bar() as progress:
            bar = progress.add_task("jobs", total=rounds * len(jobs or JOBS))
            for job in jobs or JOBS:
                progress.update(bar, description=job, refresh=True)
                seen = []
                for _ in range(rounds):
                    seen.append(compared(job, updates, samples))
                    progress.update(bar, advance=1, refresh=True)
                found.append({"job": job, **usual(seen)})
    except JobError as error:
        click.echo(f"{error}", err=True)
        sys.exit(2)
    table_console().print(table(found))
    target = output_path("doctor_gains", output, quick=quick or bool(jobs))
    if target is not None:
        command = f"python -m benchmarks.doctor_gains --updates {updates} --rounds {rounds}"
        limits = {"padding": PADDING, "speed": SPEED}
        write_result(target, command, {"one_core": pinned, "limits": limits, "jobs": found})


def compared(job: str, updates: int, samples: int | None) -> Facts:
    """Watch a job as it is, then run it in the batches that are advised."""
    command = [sys.executable, "-m", f"benchmarks.doctor_gains.jobs.{job}"]
    command += [] if samples is None else ["--samples", str(samples)]
    with tempfile.TemporaryDirectory() as folder:
        run = watch(command, folder=Path(folder), updates=updates)
    gain = gain_of(run)
    if gain is None:
        raise JobError(f"{job}: nothing is predicted. {' '.join(run.notes)}")
    settings = {
        "batch-size": gain.planned_batch_size,
        "accumulate": gain.planned_accumulate,
        "updates": updates,
    }
    command += ["--planned", *(f"--{name}={value}" for name, value in settings.items())]
    done = subprocess.run(
        command, cwd=machine.REPOSITORY, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise JobError(f"{job}: {' '.join(command)} failed.")
    seen = json.loads(done.stdout.splitlines()[-1])
    return {"gain": asdict(gain), "seen": seen, **off(gain.planned_padding, gain, seen)}


def usual(rounds: list[Facts]) -> Facts:
    """Return the round of the median error of speed, with the errors of all.

    Example:
        >>> usual([{"speed_off": off} for off in (0.3, 0.02, -0.1)])
        {'speed_off': 0.02, 'speed_offs': [0.3, 0.02, -0.1]}
    """
    offs = [each["speed_off"] for each in rounds]
    by_size = sorted(rounds, key=lambda each: (each["speed_off"] is None, each["speed_off"] or 0.0))
    return by_size[len(rounds) // 2] | {"speed_offs": offs}


def off(padding: float, gain: Any, seen: Facts) -> Facts:
    """Say how far predictions are from what was seen, and whether that is within the limits."""
    far = padding - seen["padding"]
    speed = gain.planned_tokens_per_second
    ratio = None if speed is None else speed / seen["tokens_per_second"] - 1
    return {
        "padding_off": far,
        "speed_off": ratio,
        "is_near": abs(far) <= PADDING and ratio is not None and abs(ratio) <= SPEED,
    }


def table(found: list[Facts]) -> Table:
    """Show what was predicted beside what was seen."""
    shown = Table(title="planned batches: predicted → seen")
    shown.add_column("")
    for heading in ("padding now", "padding", "tokens/s now", "tokens/s", "off", "near"):
        shown.add_column(heading, justify="right")
    for each in found:
        gain, seen, ratio = each["gain"], each["seen"], each["speed_off"]
        now, then = gain["tokens_per_second"], gain["planned_tokens_per_second"]
        shown.add_row(
            each["job"],
            f"{gain['padding']:.1%}",
            f"{gain['planned_padding']:.1%} → {seen['padding']:.1%}",
            "?" if now is None else f"{now:,.0f}",
            f"{'?' if then is None else f'{then:,.0f}'} → {seen['tokens_per_second']:,.0f}",
            "?" if ratio is None else f"{ratio:+.1%}",
            "yes" if each["is_near"] else "no",
        )
    return shown


if __name__ == "__main__":
    main()
