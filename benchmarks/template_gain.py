"""What a new user sees first: `new-task`, then `compare --quick`, with many seeds.

\b
python -m benchmarks.template_gain --seeds 20   ten minutes; writes results/template_gain.json
python -m benchmarks.template_gain --quick      two seeds, to look at

A seed shows the gain if planned batches train at least 1.5 × as many tokens a second as the
baseline, and reach and hold its final loss in at most 0.75 of the time.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.reporting import output_path, progress_bar, table_console, write_result

SPEED = 1.5
"""A gain is seen where planned batches train so many times the baseline's tokens a second ..."""

TIME = 0.75
"""... and reach its final loss in at most this share of its time."""

Facts = dict[str, Any]


@dataclass(frozen=True)
class Seen:
    """What a seed shows of planned batches, beside the baseline."""

    seed: int
    seconds: float  # that the command took, in all
    speed: float  # tokens a second, over the baseline's
    time: float | None  # to the baseline's final loss, over its own. None: not reached, or lost
    computed: float | None  # the same in tokens that were computed, padding included
    gain: float  # how much better the loss is after the same tokens; below 0: worse
    padding: tuple[float, float]  # of the baseline, and planned

    @property
    def shows(self) -> bool:
        """Whether anybody would see the gain."""
        return self.speed >= SPEED and self.time is not None and self.time <= TIME


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seeds", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--quick", is_flag=True, help="Two seeds; nothing is written.")
@click.option("--threads", type=click.IntRange(min=1), help="Of torch.  [default: as compare]")
@click.option("--output", type=click.Path(path_type=Path), help="Where to write the JSON.")
def main(*, seeds: int, quick: bool, threads: int | None, output: Path | None) -> None:
    """Run them, one after the other."""
    found = []
    with tempfile.TemporaryDirectory() as folder, progress_bar() as progress:
        batchwright("new-task", "mine.py", folder=folder)
        count = 2 if quick else seeds
        bar = progress.add_task("seeds", total=count)
        progress.refresh()
        for seed in range(count):
            started = time.perf_counter()
            options = ["--quick", "--seed", str(seed), "--restart", "--json"]
            options += [] if threads is None else ["--threads", str(threads)]
            result = json.loads(batchwright("compare", "mine.py", *options, folder=folder))
            found.append(seen(result, seed=seed, seconds=time.perf_counter() - started))
            progress.update(bar, advance=1, refresh=True)
    table_console().print(table(found))
    table_console().print(verdict(found))
    if (target := output_path("template_gain", output, quick=quick)) is not None:
        command = f"python -m benchmarks.template_gain --seeds {count}"
        command += "" if threads is None else f" --threads {threads}"
        rows = [asdict(each) | {"shows": each.shows} for each in found]
        whole = {"speed": SPEED, "time": TIME, "showing": sum(each.shows for each in found)}
        write_result(target, command, {**whole, "rows": rows})


def batchwright(*command: str, folder: str) -> str:
    """Run a command as users do, in a folder; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "batchwright", *command],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout


def seen(result: Facts, *, seed: int = 0, seconds: float = 0.0) -> Seen:
    """Read what `compare --json` printed of one run."""
    plain, planned = (
        next(each for each in result["summary"] if each["name"] == name)
        for name in ("plain", "planned")
    )
    reached = planned["time"] is not None
    ratio = (1 - plain["padding"]) / (1 - planned["padding"])  # of computed tokens for a real one
    return Seen(
        seed=seed,
        seconds=round(seconds, 1),
        speed=planned["speed"]["mean"],
        time=planned["time"]["mean"] if reached else None,
        computed=planned["tokens"]["mean"] * ratio if reached else None,
        gain=planned["gain"]["mean"],
        padding=(plain["padding"], planned["padding"]),
    )


def verdict(found: list[Seen]) -> str:
    """Say how many seeds show the gain."""
    times = [each.time for each in found if each.time is not None]
    worst = f"{max(times):.2f}" if len(times) == len(found) else "never, in some"
    return (
        f"{sum(each.shows for each in found)} of {len(found)} seeds show the gain "
        f"(at least {SPEED} × the tokens a second, at most {TIME} of the time). "
        f"Least speed {min(each.speed for each in found):.2f} ×, most time {worst}; "
        f"{statistics.median(each.seconds for each in found):.0f} s a seed."
    )


def table(found: list[Seen]) -> Any:
    """Show what each seed shows."""
    from rich.table import Table

    shown = Table(title="planned batches beside the baseline")
    headings = ("seed", "tokens per second", "time to its final loss", "loss gained", "takes", "")
    for heading in headings:
        shown.add_column(heading, justify="right")
    for each in found:
        shown.add_row(
            str(each.seed),
            f"{each.speed:.2f} ×",
            "never held" if each.time is None else f"{each.time:.2f}",
            f"{each.gain:+.4f}",
            f"{each.seconds:.0f} s",
            "" if each.shows else "no gain seen",
        )
    return shown


if __name__ == "__main__":
    main()
