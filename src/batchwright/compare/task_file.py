"""Reading a task out of the Python file that describes it."""

import inspect
import runpy
import sys
import traceback
from pathlib import Path
from typing import Any

from batchwright.compare.task import Task
from batchwright.errors import BatchwrightError, TaskError, TaskNotFoundError

_NOTHING = object()


def load_task(path: Path | str, *, quick: bool = False) -> Task:
    """Run a Python file, and return the task that it describes.

    Args:
        path: The file. Modules beside it can be imported by it.
        quick: Handed to ``task``, if that is a function that takes it: a small form of the job.

    Returns:
        The task.

    Raises:
        TaskNotFoundError: If there is no such file.
        TaskError: If the file fails, or describes no task.
    """
    file = Path(path)
    if not file.is_file():
        raise TaskNotFoundError(f"{path}: there is no such file. Expected a Python file: a task.")
    folder = str(file.resolve().parent)
    sys.path.insert(0, folder)
    try:
        task = _described(file, quick=quick)
    finally:
        sys.path.remove(folder)
    if task is _NOTHING:
        raise TaskError(f"{path}: it defines no `task`: see batchwright new-task.")
    if not isinstance(task, Task):
        raise TaskError(
            f"{path}: `task` is of type {type(task).__name__}, expected a "
            "batchwright.compare.Task, or a function that returns one."
        )
    return task


def _described(file: Path, *, quick: bool) -> Any:
    what = "it"
    try:
        names = runpy.run_path(str(file), run_name="task")
        task = names.get("task", _NOTHING)
        if not callable(task):
            return task
        what = "task()"
        takes_quick = "quick" in inspect.signature(task).parameters
        return task(quick=quick) if takes_quick else task()
    except SystemExit as error:
        raise TaskError(f"{file}{_line(error, file)}: {what} called sys.exit().") from error
    except TaskError as error:
        raise TaskError(f"{file}{_line(error, file)}: {_ended(error)}") from error
    except Exception as error:
        if isinstance(error, TypeError) and "Task.__init__() missing" in str(error):
            _, _, missing = str(error).partition(": ")
            message = f"Task(…) is without {missing}: see batchwright new-task."
        elif isinstance(error, BatchwrightError):
            message = _ended(error)
        else:
            message = _ended(f"{what} failed with {type(error).__name__}: {error}")
        raise TaskError(f"{file}{_line(error, file)}: {message}") from error


def _ended(said: object) -> str:
    text = str(said)
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _line(error: BaseException, file: Path) -> str:
    """Name the innermost line of the file that an error came through."""
    if isinstance(error, SyntaxError) and error.lineno is not None:
        return f", line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == file]
    return f", line {lines[-1]}" if lines else ""
