"""Results as JSON files, with the state of an interrupted run beside them."""

import hashlib
import io
import json
import math
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import torch

import batchwright as bw
from batchwright._files import write_bytes
from batchwright._format import one_line
from batchwright._states import built, fits, parsed
from batchwright.compare.arm_server import loaded
from batchwright.compare.comparison import Comparison
from batchwright.compare.figures import Summary, summarize
from batchwright.compare.race import Outcome, Settings
from batchwright.compare.strategy import Strategy
from batchwright.compare.task import Task
from batchwright.errors import SourceError
from batchwright.lengths import fingerprint
from batchwright.typing import State

FORMAT = 3

_STATE = 3  # format of states: those of other formats are not resumed

_CHECKSUM = "sha256"

_OF_TASK = ("num_tokens", "max_tokens", "step_tokens", "batch_size", "epochs", "metric", "better")

_ADVICE = "Name another --output, or overwrite it with --restart."

Result: TypeAlias = dict[str, Any]
"""JSON values."""


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
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    cpu = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), ""
    )
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": cpu or platform.processor() or platform.machine(),
        "bf16_units": _bf16_units(lines),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def _bf16_units(cpuinfo: list[str]) -> bool:
    """Say whether the processor multiplies matrices in bf16 itself: they may be emulated."""
    limited = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in {"AVX2", "AVX512_CORE"}
    flags = set(" ".join(cpuinfo).split())
    return not limited and bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})


def written(comparison: Comparison, task: Task, about: Result, settings: Settings) -> Result:
    """Convert everything that was measured to JSON values, figures over seeds included."""
    runs, unfinished = comparison.runs, comparison.unfinished
    if not runs and unfinished and all(each.spent.updates for each in unfinished):
        runs = [unfinished]
    summaries = summarize(runs, task, target=settings.target) if runs else []
    facts = {
        "format": FORMAT,
        "batchwright": bw.__version__,
        **about,
        "seeds": list(comparison.seeds),
        "complete": comparison.is_complete,
        "modes": comparison.modes,
        "plans": comparison.plans,
        "audits": comparison.audits,
        "runs": [[asdict(each) for each in run] for run in comparison.runs],
        "unfinished": [asdict(each) for each in unfinished],
        "summary": [asdict(each) for each in summaries],
    }
    return {name: _plain(value) for name, value in facts.items()}


@dataclass(frozen=True)
class _TaskOfResult:
    """What figures need of the task that a result is of."""

    max_tokens: int
    sign: float


def summarized(result: Result) -> list[Result]:
    """Compute the summary of a result anew from its runs; it may be one of an older format."""
    task = _TaskOfResult(result["max_tokens"], 1.0 if result["better"] == "lower" else -1.0)
    runs = [_outcomes(run) for run in result["runs"]]
    summaries = summarize(runs, task, target=result["settings"]["target"])
    summary: list[Result] = _plain([asdict(each) for each in summaries])
    return summary


def save(path: Path, result: Result, state: State | None) -> None:
    """Write a result, and the state needed to resume it, atomically.

    Raises:
        SourceError: If a file cannot be written.
    """
    beside = state_path(path)
    if state is not None:
        written = io.BytesIO()
        torch.save({"of": _key(result), "state": state}, written)
        content = written.getvalue()  # after its checksum: torch reads a damaged one in silence
        write_bytes(beside, hashlib.sha256(content).digest() + content, SourceError)
    sealed = result | {_CHECKSUM: _hash(result)}
    text = json.dumps(sealed, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_bytes(path, text.encode("utf-8", "surrogatepass"), SourceError)
    if state is None:
        beside.unlink(missing_ok=True)


def load(path: Path) -> tuple[Result, Comparison]:
    """Read a result, and the comparison to resume.

    Raises:
        SourceError: If it is not a result, or was changed after it was saved.
    """
    if path.exists() and not path.is_file():
        raise SourceError(f"{path} is no regular file. Name another --output.")
    try:
        result = parsed(path.read_bytes().decode("utf-8", "surrogatepass"))
        _check(path, result)
        comparison = Comparison(
            tuple(result["seeds"]),
            [_outcomes(run) for run in result["runs"]],
            _outcomes(result["unfinished"]),
            modes=dict(result["modes"]),
            plans=dict(result["plans"]),
            audits=dict(result["audits"]),
        )
    except OSError as error:
        raise SourceError(f"{path} cannot be read ({error.strerror or error}).") from error
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(
            f"{path} is no result of batchwright compare ({type(error).__name__}: "
            f"{one_line(error, 300)}). {_ADVICE}"
        ) from error
    if not comparison.is_complete:
        comparison.state = _state(path, result)
    if comparison.state is None:
        comparison.unfinished = []
    return result, comparison


def _check(path: Path, result: Result) -> None:
    """Check that a result has this format, and is as it was saved."""
    if (version := result["format"]) != FORMAT:
        raise SourceError(
            f"{path} has format {one_line(version, 40)}, this version reads {FORMAT}. {_ADVICE}"
        )
    if result.pop(_CHECKSUM, None) != _hash(result):
        raise SourceError(f"{path} was changed after it was saved. {_ADVICE}")
    if not fits(result["summary"], tuple[Summary, ...]):
        raise TypeError("the summary has values of wrong types")


def state_path(path: Path) -> Path:
    """Return where the state of an unfinished run is kept."""
    return path.with_name(f"{path.name}.state")


def _state(path: Path, result: Result) -> State | None:
    """Read the state of the seed in progress. None: there is none that fits, or it is damaged."""
    try:
        content = state_path(path).read_bytes()
    except OSError:
        return None
    size = hashlib.sha256().digest_size
    if hashlib.sha256(content[size:]).digest() != content[:size]:
        return None
    kept = loaded(content[size:])
    return kept["state"] if kept is not None and kept["of"] == _key(result) else None


def _key(result: Result) -> str:
    """Hash what a state belongs to: the comparison, and the seed."""
    names = ("task_sha256", "quick", "lengths", "strategies", "settings", "seeds")
    return _hash([_STATE, len(result["runs"]), *(result[name] for name in names)])


def _hash(value: object) -> str:
    """Hash JSON values, however they are laid out in a file."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _outcomes(listed: list[Result]) -> list[Outcome]:
    """Make outcomes of JSON values; a metric of None was NaN or infinite."""
    facts = [
        each
        | {
            "evaluations": [
                seen | ({"metric": math.nan} if seen["metric"] is None else {})
                for seen in each["evaluations"]
            ]
        }
        for each in listed
    ]
    if not fits(facts, tuple[Outcome, ...]):
        raise TypeError("the outcomes have values of wrong types")
    return list(built(facts, tuple[Outcome, ...]))


def _plain(value: object) -> Any:
    """Replace NaN and infinity, which JSON does not have, by None."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
