"""Results on disk: as JSON, with the state of a run that was interrupted beside it."""

import contextlib
import hashlib
import json
import math
import os
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import batchwright as bw
from batchwright.compare.arm import Evaluation, Spent
from batchwright.compare.comparison import Comparison
from batchwright.compare.figures import summarize
from batchwright.compare.race import Outcome, Settings
from batchwright.compare.strategy import Strategy
from batchwright.compare.task import Task
from batchwright.errors import ResultFileError
from batchwright.lengths import fingerprint

FORMAT = 1

Result = dict[str, Any]


def described(
    task: Task, path: Path | str, strategies: Sequence[Strategy], settings: Settings, *, quick: bool
) -> Result:
    """Say what is compared: two comparisons that say the same may go on with one another."""
    return {
        "task": Path(path).name,
        "task_sha256": hashlib.sha256(Path(path).read_bytes()).hexdigest(),
        "quick": quick,
        "num_samples": len(task.sizes),
        "num_tokens": task.num_tokens,
        "lengths": fingerprint(task.sizes),
        "max_tokens": task.max_tokens,
        "step_tokens": task.step_tokens,
        "epochs": task.epochs,
        "metric": task.metric,
        "better": task.better,
        "device": task.place().type,
        "threads": torch.get_num_threads(),
        "strategies": [
            {
                "name": each.name,
                "kind": each.kind,
                "order": str(each.order),
                "precision": each.precision,
                "options": dict(each.options),
            }
            for each in strategies
        ],
        "settings": asdict(settings),
    }


def circumstances() -> Result:
    """Say when, on what and beside how much other work figures were taken: no name, no path."""
    loads = os.getloadavg() if hasattr(os, "getloadavg") else (None,)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": _processor(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "load_average": None if loads[0] is None else round(loads[0], 2),
    }


def written(comparison: Comparison, task: Task, about: Result, settings: Settings) -> Result:
    """Put everything that was measured into what JSON can hold, figures over seeds included."""
    begun = all(each.spent.updates for each in comparison.unfinished)
    unfinished = [comparison.unfinished] if comparison.unfinished and begun else []
    runs = comparison.runs or unfinished
    summaries = summarize(runs, task, target=settings.target) if runs else []
    return {
        "format": FORMAT,
        "batchwright": bw.__version__,
        **about,
        "seeds": list(comparison.seeds),
        "complete": comparison.is_complete,
        "modes": comparison.modes,
        "plans": _plain(comparison.plans),
        "audits": _plain(comparison.audits),
        "runs": [[_plain(asdict(each)) for each in run] for run in comparison.runs],
        "unfinished": [_plain(asdict(each)) for each in comparison.unfinished],
        "summary": [_plain(asdict(each)) for each in summaries],
    }


def save(path: Path, result: Result, state: dict[str, Any] | None) -> None:
    """Write a result, and what going on with it needs; what stood there before stays till then."""
    text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    beside = state_path(path)
    if state is None:
        _replace(path, text.encode())
        with contextlib.suppress(FileNotFoundError):
            beside.unlink()
        return
    with _replacing(beside) as partial:
        torch.save({"of": _key(result), "state": state}, partial)
    _replace(path, text.encode())


def load(path: Path) -> tuple[Result, Comparison]:
    """Read a result back.

    Returns:
        It, and the comparison that it came from, to go on with.

    Raises:
        ResultFileError: If it is no result.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        if result["format"] != FORMAT:
            raise ResultFileError(
                f"{path} has format {result['format']}, this version reads {FORMAT}. Name another "
                "--output, or measure anew with --restart."
            )
        comparison = Comparison(
            tuple(result["seeds"]),
            [[_outcome(each) for each in run] for run in result["runs"]],
            [_outcome(each) for each in result["unfinished"]],
            modes=dict(result["modes"]),
            # Results of earlier versions do not have them.
            plans=dict(result.get("plans", {})),
            audits=dict(result.get("audits", {})),
        )
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        if isinstance(error, ResultFileError):
            raise
        raise ResultFileError(
            f"{path} is no result of batchwright compare ({type(error).__name__}: {error}). Name "
            "another --output, or overwrite it with --restart."
        ) from error
    if not comparison.is_complete:
        comparison.state = _state(path, result)
    if comparison.state is None:
        comparison.unfinished = []
    return result, comparison


def state_path(path: Path) -> Path:
    """Say where the state of an unfinished run is kept."""
    return path.with_name(f"{path.name}.state")


def _state(path: Path, result: Result) -> dict[str, Any] | None:
    """Read the state of the seed that was begun. None: there is none that fits, or it is broken."""
    try:
        kept = torch.load(state_path(path), weights_only=True)
    except Exception:  # noqa: BLE001 -- whatever is wrong with it, that seed begins anew
        return None
    return kept["state"] if kept.get("of") == _key(result) else None


def _key(result: Result) -> str:
    """Name what a state belongs to: the comparison, and the seed."""
    names = ("task_sha256", "quick", "lengths", "strategies", "settings", "seeds")
    facts = [result[name] for name in names] + [len(result["runs"])]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _outcome(facts: Result) -> Outcome:
    evaluations = tuple(
        Evaluation(each["tokens"], each["seconds"], _number(each["metric"]))
        for each in facts["evaluations"]
    )
    return Outcome(**facts | {"spent": Spent(**facts["spent"]), "evaluations": evaluations})


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _plain(value: Any) -> Any:
    """Replace what JSON has no word for by null."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def _replacing(path: Path) -> Any:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        yield partial
        Path(partial).replace(path)
    finally:
        Path(partial).unlink(missing_ok=True)


def _replace(path: Path, content: bytes) -> None:
    with _replacing(path) as partial:
        Path(partial).write_bytes(content)
        Path(partial).chmod(0o644)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
