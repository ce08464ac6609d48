"""Reading a task from the Python file that describes it."""

import contextlib
import inspect
import runpy
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from batchwright.compare.task import Task
from batchwright.errors import BatchwrightError, SourceNotFoundError, TaskError


def load_task(path: Path | str, *, quick: bool = False) -> Task:
    """Run a Python file, and return the task that it describes.

    Args:
        path: The file. It can import modules beside it.
        quick: Passed to ``task`` if that is a function with this argument: a small form of the job.

    Raises:
        SourceNotFoundError: If there is no such file.
        TaskError: If the file fails, or describes no task.
    """
    file = Path(path)
    if not file.is_file():
        raise SourceNotFoundError(f"{path}: there is no such file. Expected a Python file: a task.")
    folder = str(file.resolve().parent)
    sys.path.insert(0, folder)
    try:
        task = _described(file, quick=quick)
    finally:
        sys.path.remove(folder)
    if not isinstance(task, Task):
        raise TaskError(
            f"{path}: `task` is of type {type(task).__name__}, expected a "
            "batchwright.compare.Task, or a function that returns one."
        )
    return task


@contextlib.contextmanager
def errors_of_task(path: Path | str) -> Iterator[None]:
    """Turn an error in a task's own code into one line with its place.

    Errors that did not pass through the task, or a module beside it, stay as they are.
    """
    try:
        yield
    except (BatchwrightError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        frame = _own_frame(error, Path(path))
        if frame is None:
            raise
        said = f"failed with {type(error).__name__}: {error}"
        if isinstance(error, SystemExit):
            said = "called sys.exit()"
        raise TaskError(
            f"{frame.filename}, line {frame.lineno}: {_ended(f'{frame.name} {said}')}"
        ) from error


def _own_frame(error: BaseException, file: Path) -> traceback.FrameSummary | None:
    """Find the innermost line of a task, or of a module beside it, that an error came through."""
    folder, ours = file.resolve().parent, Path(__file__).resolve().parents[1]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        place = Path(frame.filename).resolve()
        is_installed = place.is_relative_to(ours) or "site-packages" in place.parts
        if Path(frame.filename) == file or (place.is_relative_to(folder) and not is_installed):
            return frame
    return None


def _described(file: Path, *, quick: bool) -> Any:
    what = "it"
    try:
        names = runpy.run_path(str(file), run_name="task")
        if "task" not in names:
            raise TaskError("it defines no `task`: see batchwright new-task.")  # noqa: TRY301 -- gets its place below
        task = names["task"]
        if not callable(task):
            return task
        what = "task()"
        takes_quick = "quick" in inspect.signature(task).parameters
        return task(quick=quick) if takes_quick else task()
    except (Exception, SystemExit) as error:
        message = f"{what} failed with {type(error).__name__}: {error}"
        if isinstance(error, SystemExit):
            message = f"{what} called sys.exit()"
        elif isinstance(error, BatchwrightError):
            message = str(error)
        elif isinstance(error, TypeError) and "Task.__init__() missing" in str(error):
            _, _, missing = str(error).partition(": ")
            message = f"Task(…) is without {missing}: see batchwright new-task"
        raise TaskError(f"{file}{_line(error, file)}: {_ended(message)}") from error


def _ended(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _line(error: BaseException, file: Path) -> str:
    """Name the innermost line of the file that an error came through."""
    if isinstance(error, SyntaxError) and error.lineno is not None:
        return f", line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == file]
    return f", line {lines[-1]}" if lines else ""
