"""Results as JSON files, with the state of an interrupted run beside them."""

import contextlib
import hashlib
import io
import json
import math
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import batchwright as bw
from batchwright._files import write_bytes
from batchwright._format import one_line
from batchwright._states import fits, parsed
from batchwright.compare.arm import Evaluation, Spent
from batchwright.compare.comparison import Comparison
from batchwright.compare.figures import Summary, summarize
from batchwright.compare.race import Outcome, Settings
from batchwright.compare.strategy import Strategy
from batchwright.compare.task import Task
from batchwright.errors import SourceError
from batchwright.lengths import fingerprint

FORMAT = 2

_CHECKSUM = "sha256"

_OF_TASK = ("num_tokens", "max_tokens", "step_tokens", "epochs", "metric", "better")

_ADVICE = "Name another --output, or overwrite it with --restart."

Result = dict[str, Any]


def described(
    task: Task, path: Path | str, strategies: Sequence[Strategy], settings: Settings, *, quick: bool
) -> Result:
    """Describe what is compared; a comparison with the same description can be resumed."""
    return {
        "task": Path(path).name,
        "task_sha256": hashlib.sha256(Path(path).read_bytes()).hexdigest(),
        "quick": quick,
        "num_samples": len(task.sizes),
        "lengths": fingerprint(task.sizes),
        **{name: getattr(task, name) for name in _OF_TASK},
        "device": task.place().type,
        "threads": torch.get_num_threads(),
        "strategies": [
            vars(each) | {"order": str(each.order), "options": dict(each.options)}
            for each in strategies
        ],
        "settings": asdict(settings),
    }


def circumstances() -> Result:
    """Describe when and on what the figures were measured; no names, no paths."""
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
    """Convert everything that was measured to JSON values, figures over seeds included."""
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
    """Write a result, and the state needed to resume it, atomically.

    Raises:
        SourceError: If a file cannot be written.
    """
    sealed = result | {_CHECKSUM: _checksum(result)}
    text = json.dumps(sealed, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    beside = state_path(path)
    if state is not None:
        _save_state(beside, result, state)
    write_bytes(path, text.encode("utf-8", "surrogatepass"), SourceError)
    if state is None:
        with contextlib.suppress(FileNotFoundError):
            beside.unlink()


def load(path: Path) -> tuple[Result, Comparison]:
    """Read a result, and the comparison to resume.

    Raises:
        SourceError: If it is not a result, or was changed after it was saved.
    """
    result = _read(path)
    try:
        comparison = Comparison(
            tuple(result["seeds"]),
            [[_outcome(each) for each in run] for run in result["runs"]],
            [_outcome(each) for each in result["unfinished"]],
            modes=dict(result["modes"]),
            plans=dict(result["plans"]),
            audits=dict(result["audits"]),
        )
        if not fits(result["summary"], tuple[Summary, ...]):
            raise TypeError("the summary has values of wrong types")  # noqa: TRY301
    except (ValueError, KeyError, TypeError) as error:
        raise SourceError(_no_result(path, error)) from error
    if not comparison.is_complete:
        comparison.state = _state(path, result)
    if comparison.state is None:
        comparison.unfinished = []
    return result, comparison


def _read(path: Path) -> Result:
    """Read the file, and check that it is unchanged."""
    if path.exists() and not path.is_file():
        raise SourceError(f"{path} is no regular file. Name another --output.")
    try:
        result = parsed(path.read_bytes().decode("utf-8", "surrogatepass"))
        version = result["format"]
    except OSError as error:
        raise SourceError(f"{path} cannot be read ({error.strerror or error}).") from error
    except (ValueError, KeyError, TypeError) as error:
        raise SourceError(_no_result(path, error)) from error
    if version != FORMAT:
        raise SourceError(
            f"{path} has format {one_line(version, 40)}, this version reads {FORMAT}. {_ADVICE}"
        )
    if result.pop(_CHECKSUM, None) != _checksum(result):
        raise SourceError(f"{path} was changed after it was saved. {_ADVICE}")
    return dict(result)


def _no_result(path: Path, error: Exception) -> str:
    return (
        f"{path} is no result of batchwright compare ({type(error).__name__}: "
        f"{one_line(error, 300)}). {_ADVICE}"
    )


def _checksum(result: Result) -> str:
    """Hash a result, however its JSON is laid out."""
    text = json.dumps(result, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def state_path(path: Path) -> Path:
    """Return where the state of an unfinished run is kept."""
    return path.with_name(f"{path.name}.state")


def _save_state(path: Path, result: Result, state: dict[str, Any]) -> None:
    """Write a state after its checksum: torch reads a damaged one without an error."""
    written = io.BytesIO()
    torch.save({"of": _key(result), "state": state}, written)
    content = written.getvalue()
    write_bytes(path, hashlib.sha256(content).digest() + content, SourceError)


def _state(path: Path, result: Result) -> dict[str, Any] | None:
    """Read the state of the seed in progress. None: there is none that fits, or it is damaged."""
    try:
        content = state_path(path).read_bytes()
    except OSError:
        return None
    size = hashlib.sha256().digest_size
    if hashlib.sha256(content[size:]).digest() != content[:size]:
        return None
    kept = torch.load(io.BytesIO(content[size:]), weights_only=True)
    return kept["state"] if kept["of"] == _key(result) else None


def _key(result: Result) -> str:
    """Hash what a state belongs to: the comparison, and the seed."""
    names = ("task_sha256", "quick", "lengths", "strategies", "settings", "seeds")
    facts = [result[name] for name in names] + [len(result["runs"])]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _outcome(facts: Result) -> Outcome:
    evaluations = tuple(
        Evaluation(**each | {"metric": math.nan if each["metric"] is None else each["metric"]})
        for each in facts["evaluations"]
    )
    outcome = Outcome(**facts | {"spent": Spent(**facts["spent"]), "evaluations": evaluations})
    if not fits(_plain(asdict(outcome)) | {"evaluations": []}, Outcome):
        raise TypeError(f"the outcome of {outcome.name!r} has values of wrong types")
    return outcome


def _plain(value: Any) -> Any:
    """Replace NaN and infinity, which JSON does not have, by None."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
