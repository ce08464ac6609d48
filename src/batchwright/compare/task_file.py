"""Reading a task from the Python file that describes it."""

import contextlib
import inspect
import runpy
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from batchwright.compare.task import Task
from batchwright.errors import BatchwrightError, SourceNotFoundError, TaskError


def load_task(path: Path | str, *, quick: bool = False) -> Task:
    """Run a Python file, which can import modules beside it, and return the task that it describes.

    The file sees no arguments of this program in ``sys.argv``. Its functions can import modules
    beside it later, too: its folder stays at the end of ``sys.path``.

    `quick` is passed to ``task`` if that is a function with this argument: a small form of the job.

    Raises:
        SourceNotFoundError: If there is no such file.
        TaskError: If the file fails, or describes no task.
    """
    file = Path(path)
    if not file.is_file():
        raise SourceNotFoundError(f"{path}: there is no such file. Expected a Python file: a task.")
    file, before = file.absolute(), str(Path.cwd())
    folder, arguments = str(file.resolve().parent), sys.argv
    sys.path.insert(0, folder)
    sys.argv = [str(file)]
    try:
        names = runpy.run_path(str(file), run_name="task")
        task = names.get("task")
        if callable(task):
            task = task(quick=quick) if "quick" in inspect.signature(task).parameters else task()
    except (Exception, SystemExit) as error:
        raise _with_place(error, file, default=str(path)) from error
    finally:
        sys.argv = arguments
        sys.path.remove(folder)
    if folder not in sys.path:
        sys.path.append(folder)
    if "task" not in names:
        raise TaskError(f"{path}: it defines no `task`: see batchwright new-task.")
    if not isinstance(task, Task):
        raise TaskError(
            f"{path}: `task` is of type {type(task).__name__}, expected a "
            "batchwright.compare.Task, or a function that returns one."
        )
    object.__setattr__(task, "origin", (str(file), quick, before))
    return task


@contextlib.contextmanager
def errors_of_task(path: Path | str) -> Iterator[None]:
    """Turn an error in a task's own code into one line with its place.

    Errors that did not pass through the task, or a module beside it, stay as they are.
    """
    try:
        yield
    except TaskError as error:  # a function of the task failed: its error is the cause
        place, _ = _innermost(error.__cause__, Path(path))
        if not place or str(error).startswith(place):
            raise
        raise TaskError(f"{place}: {_ended(str(error))}") from error.__cause__
    except (BatchwrightError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        found = _with_place(error, Path(path))
        if found is error:
            raise
        raise found from error


def _with_place(error: BaseException, file: Path, *, default: str = "") -> BaseException:
    """Name the innermost line of a task, or of a module beside it, that an error came through.

    Returns the error itself if there is no such line, and no default.
    """
    place, function = _innermost(error, file)
    if not place:
        place = default
        if isinstance(error, SyntaxError) and default:
            place = f"{default}, line {error.lineno or 1}"
    said = f"{function} failed with {type(error).__name__}: {error}"
    if isinstance(error, BatchwrightError):
        said = str(error)
    elif isinstance(error, SystemExit):
        said = f"{function} called sys.exit()"
    return TaskError(f"{place}: {_ended(said)}") if place else error


def _innermost(error: BaseException | None, file: Path) -> tuple[str, str]:
    """Return the innermost place of a task that an error came through, and the function's name."""
    folder, ours = file.resolve().parent, Path(__file__).resolve().parents[1]
    place, function = "", "it"
    for frame in traceback.extract_tb(None if error is None else error.__traceback__):
        of = Path(frame.filename).resolve()
        is_installed = of.is_relative_to(ours) or "site-packages" in of.parts
        if of.is_file() and of.is_relative_to(folder) and not is_installed:
            place = f"{shown(frame.filename)}, line {frame.lineno}"
            function = "it" if frame.name == "<module>" else frame.name
    return place, function


def shown(path: str) -> str:
    """Return a path as it is from the current folder, where it lies in that."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path


def _ended(said: str) -> str:
    return said if said.endswith((".", "!", "?")) else f"{said}."
