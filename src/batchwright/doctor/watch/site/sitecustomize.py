"""Python runs this when a watched process starts: it loads the hooks, then the file it hides."""

import importlib.util
import json
import os
import sys
from importlib.machinery import PathFinder
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_PACKAGE = "_batchwright_watch"
_OLDEST = (3, 10)


def _watch() -> None:
    """Load the hooks under a separate name: the package need not be installed here."""
    if "BATCHWRIGHT_DOCTOR" not in os.environ:
        return
    if sys.version_info < _OLDEST:
        raise RuntimeError(f"that needs Python {_OLDEST[0]}.{_OLDEST[1]} or newer")
    folder = _HERE.parent
    spec = importlib.util.spec_from_file_location(
        _PACKAGE, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        return
    module = importlib.util.module_from_spec(spec)
    sys.modules[_PACKAGE] = module
    spec.loader.exec_module(module)
    module.begin()


def _run_hidden() -> None:
    """Run the `sitecustomize` that this one hides, and restore the path."""
    sys.path[:] = [each for each in sys.path if not each or Path(each).resolve() != _HERE]
    spec = PathFinder.find_spec("sitecustomize", sys.path)
    if spec is None or spec.loader is None:
        return
    module = importlib.util.module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


def _tell(error: Exception) -> None:
    """Say in the report why this process is not watched."""
    said = f"{sys.executable} is not watched: {error}."
    try:
        path = Path(os.environ["BATCHWRIGHT_DOCTOR"], f"{os.getpid()}.jsonl")
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(["note", said]) + "\n")
    except OSError:
        sys.stderr.write(f"batchwright: {said}\n")


try:
    _watch()
except Exception as error:  # noqa: BLE001 -- the run continues without being watched
    _tell(error)
_run_hidden()
