"""`batchwright doctor`: what is wrong with a training run, seen while it trains."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from batchwright._format import duration, plural
from batchwright.cli import options
from batchwright.cli.exit_codes import FOUND
from batchwright.cli.output import check_outputs, deliver
from batchwright.doctor.diagnosis import Diagnosis, diagnose
from batchwright.doctor.finding import Finding
from batchwright.doctor.gains import are_all, lengths_seen, save_lengths
from batchwright.doctor.launching import watch
from batchwright.doctor.records import Run
from batchwright.report.diagnosed import Diagnosed, diagnosed_report

_SECONDS = 120.0


@click.command(
    "doctor",
    # All arguments after the first word of the command belong to it.
    context_settings={"allow_interspersed_args": False},
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@options.count("--updates", help="Stop the command after N updates (optimizer steps).")
@options.count(
    "--epochs", help="Stop the command after N epochs (passes over the training loader)."
)
@click.option(
    "--seconds",
    type=options.finite,
    metavar="S",
    help="Stop the command after S seconds, and report what was seen until then.",
    show_default="120; no limit with --updates or --epochs; with --resume 600 for each run",
)
@click.option(
    "--strict",
    is_flag=True,
    help="Exit code 1 also if an error is found, or if nothing could be checked.",
)
@click.option(
    "--lengths",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Save the lengths that were seen, as .npy for `advise` and planners.",
)
@click.option(
    "--keep",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep what was recorded, in a new folder.",
)
@click.option(
    "--resume",
    "resumes",
    metavar="COMMAND",
    multiple=True,
    help="Also kill a run and resume it with this command; may be given several times.",
)
@options.count(
    "--kill",
    help="With --resume: kill the run at the end of update N.",
    show_default="up to 20 updates after its first checkpoint, at random",
)
@click.option(
    "--after-save",
    is_flag=True,
    help="With --resume: kill the run in the first update after its first checkpoint.",
)
@options.number(
    "--workers",
    least=0,
    help="With --resume: resume once more at the end, with N workers in each DataLoader.",
    show_default="no",
)
@options.number(
    "--seed",
    least=0,
    most=2**63 - 1,
    default=0,
    help="With --resume: seed of the random updates at which runs are killed.",
)
@options.html_output
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON object; what the command prints goes to standard error.",
)
def doctor(
    command: tuple[str, ...],
    *,
    updates: int | None,
    epochs: int | None,
    seconds: float | None,
    strict: bool,
    lengths: Path | None,
    keep: Path | None,
    resumes: tuple[str, ...],
    kill: int | None,
    after_save: bool,
    workers: int | None,
    seed: int,
    html: Path | None,
    as_json: bool,
) -> None:
    """Watch a training COMMAND as it runs, and say what is wrong with it.

    \b
      batchwright doctor -- python train.py
      batchwright doctor --epochs 2 --html doctor.html -- torchrun --nproc-per-node 2 train.py
      batchwright doctor --resume "python train.py --resume" -- python train.py

    The script is not changed: hooks in its processes watch it, and its results stay the same.
    Ctrl-C ends it, and what was seen until then is reported.

    Exit code: 0, whatever is found; 1 if the command fails by itself, and with --strict also if an
    error is found or nothing could be checked; 2 if there is nothing to run, or to resume.
    """  # noqa: D301 -- click looks for the character that \b is
    if seconds is not None and seconds <= 0:
        raise click.UsageError(f"--seconds {seconds:g}: expected more than 0.")
    if not resumes and (kill is not None or after_save or workers is not None):
        raise click.UsageError("--kill, --after-save and --workers are for --resume COMMAND.")
    if kill is not None and after_save:
        raise click.UsageError("--kill and --after-save exclude one another.")
    if resumes and any(each is not None for each in (updates, epochs, keep)):
        raise click.UsageError("--updates, --epochs and --keep do not go with --resume.")
    if seconds is None and updates is None and epochs is None and not resumes:
        seconds = _SECONDS
    # Unlike `Path.is_file`, this accepts words that cannot be names of files.
    read = [each for each in command if os.path.isfile(each)]  # noqa: PTH113
    check_outputs({"--lengths": lengths, "--html": html}, read)
    words = [_split(each) for each in resumes]
    if sys.stderr.isatty():
        click.echo(f"batchwright: {_until(updates, epochs, seconds)}.", err=True)
    runs: Sequence[Run]
    found: Sequence[Finding] = ()
    with _ends_with_us():
        if words:
            from batchwright.doctor.resuming import SECONDS, check_resume

            runs, found = check_resume(
                command,
                words,
                kill=kill,
                after_save=after_save,
                workers=workers,
                seed=seed,
                seconds=SECONDS if seconds is None else seconds,
                to_stderr=as_json,
            )
        else:
            run = watch(
                command,
                folder=keep,
                updates=updates,
                epochs=epochs,
                seconds=seconds,
                to_stderr=as_json,
            )
            runs = (run,)
    # A resumed run sees only the rest of its first epoch, so it is not checked.
    diagnosis = diagnose(runs[0], found)
    name = None if lengths is None else click.format_filename(lengths)
    page = None if html is None else click.format_filename(html)
    kept = list(_kept(runs[0], lengths, keep))
    if not as_json:
        click.echo()  # between what the command has printed and the report
    report = diagnosed_report(Diagnosed(diagnosis, runs if words else (), kept, name, page))
    deliver(report, as_json=as_json, html=html)
    if any(each.has_failed for each in runs) or (strict and not _passes(diagnosis)):
        raise click.exceptions.Exit(FOUND)


def _until(updates: int | None, epochs: int | None, seconds: float | None) -> str:
    """Say when a run ends.

    Example:
        >>> _until(None, 2, 600.0)
        'the run ends after 2 epochs, after 10 min 0 s or at Ctrl-C; then comes the report'
    """
    ends = [
        *([] if updates is None else [f"after {plural(updates, 'update')}"]),
        *([] if epochs is None else [f"after {plural(epochs, 'epoch')}"]),
        *([] if seconds is None else [f"after {duration(seconds)}"]),
    ]
    known = f"{', '.join(ends)} or at" if ends else "by itself or at"
    return f"the run ends {known} Ctrl-C; then comes the report"


def _split(command: str) -> list[str]:
    """Split a command into words, as a shell does."""
    try:
        return shlex.split(command)
    except ValueError as error:
        raise click.UsageError(f"--resume {command!r}: {error}.") from error


def _passes(diagnosis: Diagnosis) -> bool:
    """Say whether something was checked, and no error was found."""
    return not diagnosis.has_errors and any(each.updates for each in diagnosis.run.ranks)


def _kept(run: Run, lengths: Path | None, keep: Path | None) -> Iterator[str]:
    """Write the files that were asked for, and say what was written."""
    if lengths is not None:
        name, count = click.format_filename(lengths), save_lengths(run, lengths)
        said = f"Wrote {name}: {count:,} lengths"
        if not count:
            said = f"Wrote no {name}: samples have no lengths, or they were not seen."
        elif are_all(run, lengths_seen(run)):
            said += ", in the order of the data set."
        else:
            said += ", of the samples that were seen."
        yield said
    if keep is not None:
        yield f"What was recorded is in {click.format_filename(keep)}."


@contextmanager
def _ends_with_us() -> Iterator[None]:
    """End a watched command as Ctrl-C does, on SIGTERM and when the terminal is closed.

    It has its own process group, so it would not end otherwise.
    """

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {
        number: signal.signal(number, interrupt)
        for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))
        if signal.getsignal(number) is not signal.SIG_IGN  # as under nohup
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
