"""Notes on a run: why it ended, or why nothing was seen."""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from batchwright._format import duration, plural
from batchwright.doctor.records import Run

_ELSEWHERE = frozenset({"docker", "podman", "nerdctl", "kubectl", "ssh", "sudo", "sbatch"})
"""Programs that start others without this environment, or on another machine."""

_IGNORING = {
    "I": "ignores PYTHONPATH, by which processes are watched",
    "E": "ignores PYTHONPATH, by which processes are watched",
    "S": "does not import the hooks that watch a process",
}
"""Options of Python, and what they do."""


def notes_of(run: Run) -> tuple[str, ...]:
    """Say how a run ended, if that matters, and why nothing was seen, if nothing was.

    Args:
        run: What was seen.

    Returns:
        Sentences.

    Example:
        >>> notes_of(Run(ranks=(), command=("python", "-I", "train.py")))
        ('python -I ignores PYTHONPATH, by which processes are watched: leave out -I.',)
    """
    return tuple(_notes(run))


def failure_of(run: Run) -> str:
    """Say how a command has failed by itself.

    Returns:
        A sentence; empty if it did not fail, or was ended by the doctor.

    Example:
        >>> failure_of(Run(ranks=(), exit_code=1))
        'The command failed with exit code 1, before its first update.'
    """
    if not run.has_failed:
        return ""
    code, updates = run.exit_code or 0, max((len(each.updates) for each in run.ranks), default=0)
    how = f"failed with exit code {code}"
    if code < 0:
        how = f"was ended by signal {-code} ({signal.strsignal(-code)})"
    then = f"after {plural(updates, 'update')}" if updates else "before its first update"
    return f"The command {how}, {then}."


def gap_of(run: Run) -> str:
    """Say what could not be checked because too little was seen, and which option would show it.

    Returns:
        A sentence; empty if two epochs were seen to their end.

    Example:
        >>> from batchwright.doctor.records import Loader, Pass, Rank, Update
        >>> loader = Loader((Pass((), is_complete=True),))
        >>> gap_of(Run((Rank(0, 1, (loader,), (Update((), ()),)),)))
        'One epoch was seen: whether the next has another order is not known (--epochs 2).'
    """
    if not any(each.updates for each in run.ranks):
        return ""
    loaders = [each.trained for each in run.ranks]
    found = [each for each in loaders if each is not None]
    if not found:
        return "No loader was seen: samples, order and padding are not checked."
    epochs = min(sum(each.is_complete for each in loader.passes) for loader in found)
    if epochs == 0:
        return (
            "No epoch was seen to its end: lost samples and the order of epochs are not checked "
            "(--epochs 2)."
        )
    if epochs == 1:
        return "One epoch was seen: whether the next has another order is not known (--epochs 2)."
    return ""


def _notes(run: Run) -> Iterator[str]:
    failure = failure_of(run)
    if failure:
        yield failure
    if run.stopped == "hang":
        yield "A rank ended, and the others made no update after that: the run was stopped."
    if not any(each.updates for each in run.ranks):
        yield from _unseen(run)


def _unseen(run: Run) -> Iterator[str]:
    """Say why no update was seen."""
    words = list(run.command)
    if (option := _ignoring(words)) is not None:
        yield f"python -{option} {_IGNORING[option]}: leave out -{option}."
    elif words and (name := Path(words[0]).name) in _ELSEWHERE:
        yield (
            f"{name} starts programs without the environment of this command: run batchwright "
            "doctor where they run."
        )
    elif run.without_torch:
        yield (
            f"torch is not installed in {run.without_torch[0]}, which ran the command. Name the "
            "Python of your environment, which needs no batchwright: batchwright doctor -- "
            "PATH/bin/python …"
        )
    elif run.stopped == "seconds":
        yield f"No update was made within {duration(run.seconds)}: give it more time (--seconds)."
    elif run.stopped == "run" and not run.has_failed:
        yield (
            "No optimizer step of torch or Keras was seen. Python processes are only watched if "
            "they inherit the environment of this command."
        )


def _ignoring(words: Sequence[str]) -> str | None:
    """Return the option that keeps Python from being watched, of a command or of its script."""
    for place, word in enumerate(words):
        if _is_python(word):
            return _option(words[place + 1 :])
    first = _first_line(words[0]) if words else []
    return _option(first[1:]) if first and _is_python(first[0]) else None


def _is_python(word: str) -> bool:
    return re.fullmatch(r"(python|pypy)[\d.]*", Path(word).name) is not None


def _option(words: Sequence[str]) -> str | None:
    """Find an option of Python among those before the script."""
    rest = iter(words)
    for word in rest:
        if not word.startswith("-") or word.startswith("--"):
            return None
        for place, letter in enumerate(word[1:], 2):
            if letter in _IGNORING:
                return letter
            if letter in "cm":
                return None
            if letter in "WX":  # what follows is its value
                if place == len(word):
                    next(rest, None)
                break
    return None


def _first_line(command: str) -> list[str]:
    """Return the interpreter of a script, and its options."""
    path = shutil.which(command)
    with suppress(OSError):
        if path is not None:
            with Path(path).open("rb") as file:
                line = file.readline(200)
            if line.startswith(b"#!"):
                return line[2:].decode(errors="replace").split()
    return []
