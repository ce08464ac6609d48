r"""What `batchwright doctor --resume` finds in scripts that resume wrongly, and in right ones.

\b
python -m benchmarks.doctor_resume             ten minutes; writes results/doctor_resume.json
python -m benchmarks.doctor_resume --quick     one kill of each script, writes nothing

Each script saves after every fifth update. It is killed without notice up to 20 updates after its
first checkpoint, at random, and resumed by its own command; some also on one rank after two, or
with two workers in place of none. `kept` and `rest` are the samples of the epoch that it was killed
in, before its checkpoint and after resuming for the first time.
"""

import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from batchwright.doctor.resuming import check_resume
from batchwright.doctor.resuming.checkpoints import resumed_from
from benchmarks import machine
from benchmarks.reporting import output_path, progress_bar, table_console, write_result

SCRIPTS = Path(__file__).with_name("scripts")

LOST, REPEATED = "samples lost on resume", "samples repeated on resume"

Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A script, how it is resumed, and what is wrong with that."""

    name: str
    script: str
    options: tuple[str, ...] = ()
    ranks: tuple[int, ...] = (1, 1)  # of the first run, and of each that follows
    workers: int | None = None  # of one more run
    expected: tuple[str, ...] = ()  # findings; none: it resumes rightly

    def commands(self, folder: Path) -> list[list[str]]:
        """Return the command of each run."""
        words = [sys.executable, str(SCRIPTS / self.script), str(folder), *self.options]
        ways = [words, *([*words, "--resume"] for _ in self.ranks[1:])]
        return [
            torchrun(ranks, way) if ranks > 1 else way
            for ranks, way in zip(self.ranks, ways, strict=True)
        ]


CASES = (
    Case("DataLoader, its epoch anew", "plain.py", expected=(REPEATED,)),
    Case("DataLoader, skipping batches", "plain.py", ("--skip",), expected=(LOST, REPEATED)),
    Case("Trainer, 2 ranks, then 1", "trainer.py", ranks=(2, 1), expected=(REPEATED,)),
    Case("Lightning, DataLoader", "lightning_fit.py", expected=(REPEATED,)),
    Case("Trainer", "trainer.py"),
    Case("StatefulDataLoader", "stateful.py"),
    Case("PlanLoader, other workers", "planned.py", workers=2),
    Case("PlanLoader, 2 ranks, then 1", "planned.py", ranks=(2, 1)),
    Case("Trainer, use_plan, 2 ranks, then 1", "trainer.py", ("--plan",), ranks=(2, 1)),
    Case("Lightning, PlanDataModule", "lightning_fit.py", ("--plan",)),
)


def torchrun(ranks: int, command: Sequence[str]) -> list[str]:
    """Return the command that runs a script on some ranks of this machine."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    return [command[0], *launcher, *command[1:]]


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="One kill of each script.")
@click.option("--seeds", type=click.IntRange(min=1), default=2, show_default=True, help="Kills.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path))
def main(*, quick: bool, seeds: int, output: Path | None) -> None:
    """Check how each script resumes, and show what was found."""
    seeds = 1 if quick else seeds
    rows: list[Row] = []
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(machine.REPOSITORY / "src"), str(machine.REPOSITORY)]
    )
    with progress_bar() as bar, machine.one_core():
        shown = bar.add_task("", total=len(CASES) * seeds)
        for case in CASES:
            for seed in range(seeds):
                bar.update(shown, description=case.name, refresh=True)
                rows.append(checked(case, seed))
                bar.update(shown, advance=1, refresh=True)
    table_console().print(table(rows))
    summary = summed(rows)
    click.echo(
        f"wrong resumes found: {summary['wrong_found']} of {summary['wrong']}; "
        f"right ones clean: {summary['right_clean']} of {summary['right']}"
    )
    target = output_path("doctor_resume", output, quick=quick)
    if target is not None:
        command = f"python -m benchmarks.doctor_resume --seeds {seeds}"
        write_result(target, command, {"seeds": seeds, **summary, "runs": rows})


def checked(case: Case, seed: int) -> Row:
    """Kill and resume a script, and say what was found."""
    with tempfile.TemporaryDirectory() as folder:
        command, *resumes = case.commands(Path(folder))
        runs, findings = check_resume(
            command, resumes, workers=case.workers, seed=seed, to_stderr=True
        )
    errors = {each.name for each in findings if each.level == "error"}
    compared = resumed_from(*runs[:2])
    return {
        "case": case.name,
        "seed": seed,
        "expected": list(case.expected),
        "found": [
            {"name": each.name, "level": each.level, "figure": each.figure} for each in findings
        ],
        "as_expected": errors >= set(case.expected) if case.expected else not findings,
        "kept": None if compared is None else compared[0].kept.size,
        "rest": None if compared is None else compared[1].samples.size,
        "is_over": compared is not None and compared[1].is_over,
        "updates": [max(len(each.updates) for each in run.ranks) for run in runs],
        "seconds": round(sum(run.seconds for run in runs), 1),
        "notes": [note for run in runs for note in run.notes],
    }


def summed(rows: Sequence[Row]) -> dict[str, int]:
    """Count what was to be found and was, and what was to be clean and was."""
    wrong = [each for each in rows if each["expected"]]
    right = [each for each in rows if not each["expected"]]
    return {
        "wrong": len(wrong),
        "wrong_found": sum(each["as_expected"] for each in wrong),
        "right": len(right),
        "right_clean": sum(each["as_expected"] for each in right),
    }


def table(rows: Sequence[Row]) -> Table:
    """Lay out what was found."""
    shown = Table("script", "seed", "found", "as expected", "seconds", box=None)
    for each in rows:
        found = "; ".join(one["name"] for one in each["found"]) or "nothing"
        verdict = "yes" if each["as_expected"] else "no"
        shown.add_row(each["case"], str(each["seed"]), found, verdict, f"{each['seconds']:.0f}")
    return shown


if __name__ == "__main__":
    main()
