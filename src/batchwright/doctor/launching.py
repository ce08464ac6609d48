"""Starts a command as it is, watched by hooks in its processes, and reads what was seen."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from batchwright._format import one_line
from batchwright.doctor.notes import notes_of
from batchwright.doctor.processes import Ranks, end, ends_within, kill_all
from batchwright.doctor.reading import Progress, progress, read_run
from batchwright.doctor.records import Run
from batchwright.errors import SourceError, SourceNotFoundError, TaskError

SITE = Path(__file__).with_name("watch") / "site"
"""The folder from which Python imports the hooks before a script, put first in `PYTHONPATH`."""

_LOOK = 1.0  # seconds between two looks at a running command

OnProgress = Callable[[Progress], object]
"""Is called about every second with what was seen so far."""


def watch(
    command: Sequence[str],
    *,
    folder: str | os.PathLike[str] | None = None,
    updates: int | None = None,
    epochs: int | None = None,
    seconds: float | None = None,
    kill: int | None = None,
    kill_after_save: int | None = None,
    workers: int | None = None,
    env: Mapping[str, str] | None = None,
    to_stderr: bool = False,
    on_progress: OnProgress | None = None,
) -> Run:
    """Run a command, unchanged, and watch how it trains.

    It has its own process group. What it prints is passed through. A first Ctrl-C ends it, and what
    was seen is returned; a second one stops it at once, and `KeyboardInterrupt` is raised.

    Args:
        command: Its words: ``["python", "train.py"]``, ``["torchrun", …]``.
        folder: Where to keep what its processes wrote: a new folder, or an empty one. None: it is
            not kept.
        updates: End it after this number of updates.
        epochs: End it after this number of epochs (passes over the training loader).
        seconds: End it after this number of seconds.
        kill: Kill it, as ``kill -9`` does, at the end of this update, counted from 1.
        kill_after_save: Kill it this number of updates after its first checkpoint.
        workers: Give each `DataLoader` this number of workers.
        env: Its environment. None: that of this process.
        to_stderr: Whether its standard output goes to standard error.
        on_progress: Is called about every second with what was seen so far.

    Returns:
        What was seen. If nothing was, its `notes` give the reason.

    Raises:
        SourceNotFoundError: The command does not exist.
        SourceError: It cannot be started, it is a script without its interpreter, or the folder is
            not empty.
        TaskError: On Windows.

    Example:
        >>> import sys
        >>> watch([sys.executable, "-c", "1 + 1"]).ranks
        ()
    """
    words = [os.fspath(word) for word in command]
    variables = dict(os.environ if env is None else env)
    _check(words, variables)
    named = {
        "updates": updates,
        "epochs": epochs,
        "kill": kill,
        "kill_after_save": kill_after_save,
        "workers": workers,
    }
    options = {name: value for name, value in named.items() if value is not None}
    is_killed = kill is not None or kill_after_save is not None
    with _events(folder) as place:
        variables |= {
            "BATCHWRIGHT_DOCTOR": str(place),
            "BATCHWRIGHT_DOCTOR_OPTIONS": json.dumps(options),
            "PYTHONPATH": os.pathsep.join(filter(None, (str(SITE), variables.get("PYTHONPATH")))),
        }
        begun = time.monotonic()
        stopped, code = _run(words, variables, place, seconds, on_progress, to_stderr=to_stderr)
        if is_killed:
            kill_all(place)  # a killed process could not end those that it started
        spent = time.monotonic() - begun
        run = read_run(place, command=words, seconds=spent, exit_code=code, stopped=stopped)
    ended = {each.ended for each in run.ranks}
    if stopped == "run":
        stopped = next((name for name in ("updates", "epochs") if name in ended), "run")
    run = replace(run, stopped=stopped)
    return replace(run, notes=(*run.notes, *notes_of(run)))


def _check(words: Sequence[str], variables: Mapping[str, str]) -> None:
    """Refuse a command that cannot be started, and say what to do instead."""
    if sys.platform == "win32":
        raise TaskError("a command cannot be watched on Windows: run this in WSL, or on Linux.")
    if not words or not words[0]:
        raise SourceError("a command is needed, such as: batchwright doctor -- python train.py")
    first = one_line(words[0])
    if first.endswith(".py"):
        quoted = shlex.quote(first)
        raise SourceError(
            f"{first} is a script: name its interpreter too: batchwright doctor -- python {quoted}"
        )
    if shutil.which(words[0], path=variables.get("PATH")) is None:
        raise SourceNotFoundError(
            f"{first}: there is no such command, or it is not executable. Expected the command "
            "that starts your training, such as: batchwright doctor -- python train.py"
        )


@contextmanager
def _events(folder: str | os.PathLike[str] | None) -> Iterator[Path]:
    """Make the folder that processes write into: one that is kept, or a temporary one."""
    if folder is None:
        with tempfile.TemporaryDirectory(
            prefix="batchwright-doctor-", ignore_cleanup_errors=True
        ) as made:
            yield Path(made).resolve()
        return
    place = Path(folder).resolve()
    try:
        place.mkdir(parents=True, exist_ok=True)
        is_used = any(place.iterdir())
    except OSError as error:
        raise SourceError(f"{folder}: {error.strerror}. Name a new folder.") from error
    if is_used:
        raise SourceError(f"{folder} is not empty: name a new folder for what is recorded.")
    yield place


def _run(
    words: Sequence[str],
    variables: Mapping[str, str],
    place: Path,
    seconds: float | None,
    on_progress: OnProgress | None,
    *,
    to_stderr: bool,
) -> tuple[str, int | None]:
    """Run a command until it ends or is stopped; return what ended it, and its exit code."""
    process = None
    is_over = False
    try:
        try:
            process = subprocess.Popen(  # noqa: S603 -- the user's own command
                words,
                env=variables,
                stdout=_standard_error() if to_stderr else None,
                start_new_session=True,
            )
            stopped = _wait(process, place, seconds, on_progress)
        except OSError as error:
            if process is not None:
                raise
            said = f"{one_line(words[0])} cannot be started: {error.strerror}."
            raise SourceError(said) from error
        except KeyboardInterrupt:
            stopped = "interrupt"
        if stopped != "run" and process is not None:
            end(process, place)
        is_over = True
    finally:
        if not is_over and process is not None:
            process.kill()
            kill_all(place, process.pid)
            process.wait()
    if process is None:  # interrupted before it began
        raise KeyboardInterrupt
    return stopped, process.returncode if stopped == "run" else None


def _wait(
    process: subprocess.Popen[bytes],
    place: Path,
    seconds: float | None,
    on_progress: OnProgress | None,
) -> str:
    """Wait until a command ends, or has to be stopped; return why."""
    begun, ranks = time.monotonic(), Ranks(place)
    while True:
        now = time.monotonic()
        left = _LOOK if seconds is None else begun + seconds - now
        if left <= 0:
            return "seconds"
        if ranks.wait_in_vain(now):
            return "hang"
        if ends_within(process, min(_LOOK, left)):
            return "run"
        if on_progress is not None:
            on_progress(progress(place))


def _standard_error() -> int:
    """Return standard error; if it is closed, the null device."""
    try:
        os.fstat(2)
    except OSError:
        return subprocess.DEVNULL
    return 2
