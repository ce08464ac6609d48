"""What it costs a run to be watched, and that its weights are the same.

\b
python -m benchmarks.doctor_overhead            minutes; writes results/doctor_overhead.json
python -m benchmarks.doctor_overhead --quick    one round of each, writes nothing

Three processes train alike: one as it is, one watched by `batchwright doctor`, and one more as it
is, which shows how far times differ by chance. They take turns update by update, so that what
slows the machine slows all. Each times its updates, and its weights have to be the same. With one
process, with two workers that load data (which they do while others have their turn: there, the
processor's time says what it costs), and with two ranks.
"""

import os
import socket
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

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

WARM_UP = 3
"""Updates that do not count."""

PATIENCE = 300
"""Seconds to wait for a line of a process."""


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rounds", type=click.IntRange(min=1), show_default="10, or 1 with --quick")
@click.option("--updates", type=click.IntRange(min=WARM_UP + 1), default=50, show_default=True)
@click.option("--quick", is_flag=True, help="One round of each.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path))
def main(*, rounds: int | None, updates: int, quick: bool, output: Path | None) -> None:
    """Run the rounds, and show the ratios."""
    number = rounds or (1 if quick else 10)
    rows = []
    with progress_bar() as bar:
        shown = bar.add_task("rounds", total=number * len(CASES))
        for name, command in CASES.items():
            found = []
            for place in range(number):
                found.append(one_round(command, updates, place))
                bar.advance(shown)
                bar.refresh()
            rows.append({"case": name, **summed_up(found)})
    console = table_console()
    for row in rows:
        time, processor = row["time"], row["processor"]
        console.print(
            f"{row['case']}: {time['median']:.3f} of the time ({listed(time['ratios'])}), "
            f"{processor['median']:.3f} of the processor's ({listed(processor['ratios'])}); one "
            f"more as it is {time['control']:.3f} ({listed(time['controls'])}); the same weights "
            f"in {row['same']} of {number}",
            highlight=False,
        )
    path = output_path("doctor_overhead", output, quick=quick)
    if path is not None:
        command = f"python -m benchmarks.doctor_overhead --rounds {number} --updates {updates}"
        write_result(path, command, {"rounds": number, "within": WITHIN, "rows": rows})


def one_round(command: list[str], updates: int, place: int) -> dict[str, dict[str, float] | bool]:
    """Run a command watched, and twice as it is, update by update in turns.

    Returns:
        Of each of the three the seconds of its updates and of the processor, and whether all three
        have the same weights.
    """
    doctor = [sys.executable, "-m", "batchwright", "doctor", "--seconds", "3600", "--"]
    ways = {"alone": [], "watched": doctor, "again": []}
    names = list(ways)
    spent = dict.fromkeys(names, 0.0)
    with started([[*before, *command] for before in ways.values()], updates) as lines:
        for update in range(updates):
            first = (place + update) % len(names)
            for turn in range(first, first + len(names)):
                at = turn % len(names)
                lines[at].write("go\n")
                seconds = float(lines[at].readline())
                spent[names[at]] += seconds if update >= WARM_UP else 0.0
        last = [each.readline().split() for each in lines]
    processor = {name: float(seconds) for name, (seconds, _) in zip(names, last, strict=True)}
    return {"time": spent, "processor": processor, "same": len({digest for _, digest in last}) == 1}


@contextmanager
def started(commands: list[list[str]], updates: int) -> Iterator[list[TextIO]]:
    """Start processes, and yield what is read from and written to each."""
    env = os.environ | {"PYTHONPATH": str(machine.REPOSITORY / "src")}
    processes, lines = [], []
    with ExitStack() as stack:
        for command in commands:
            with socket.create_server(("127.0.0.1", 0)) as server:
                server.settimeout(PATIENCE)
                options = ["--turns", str(server.getsockname()[1]), "--updates", str(updates)]
                whole = [*command, *options]
                process = subprocess.Popen(whole, env=env, stdout=subprocess.DEVNULL)
                processes.append(stack.enter_context(process))
                stack.callback(process.kill)
                connection = stack.enter_context(server.accept()[0])
            connection.settimeout(PATIENCE)
            lines.append(stack.enter_context(connection.makefile("rw", buffering=1)))
        yield lines
        for process in processes:
            if process.wait(PATIENCE):
                raise subprocess.CalledProcessError(process.returncode, process.args)


def summed_up(rounds: list[dict]) -> dict[str, object]:
    """Divide by what the process as it is took, round by round."""
    found: dict[str, object] = {}
    for name in ("time", "processor"):
        ratios, controls = (
            [each[name][way] / each[name]["alone"] for each in rounds]
            for way in ("watched", "again")
        )
        found[name] = {
            "median": statistics.median(ratios),
            "control": statistics.median(controls),
            "ratios": ratios,
            "controls": controls,
        }
    return found | {"same": sum(each["same"] for each in rounds)}


def listed(ratios: list[float]) -> str:
    """Write ratios from the least to the largest."""
    return ", ".join(f"{each:.3f}" for each in sorted(ratios))


if __name__ == "__main__":
    main()
