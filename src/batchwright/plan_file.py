"""Plans on disk: a safetensors file of arrays, with what they were made for as metadata."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from batchwright.errors import PlanError, PlanFileError
from batchwright.layout import Layout
from batchwright.plans import Origin, Plan

FORMAT = "batchwright-plan"
FORMAT_VERSION = 1

_DROPPED = "dropped."


def save_plan(plan: Plan, path: str | Path) -> None:
    """Write a plan as a safetensors file.

    The file holds `indices` and `offsets` (and `starts` and `dropped.REASON` where there are
    any), and in its metadata the format version, the layout, the origin and a digest.

    Args:
        plan: The plan.
        path: Where to write; an existing file is replaced once the new one is whole.

    Raises:
        PlanFileError: If the file cannot be written.
    """
    target = Path(path)
    arrays = {"indices": plan.indices, "offsets": plan.offsets}
    if plan.starts is not None:
        arrays["starts"] = plan.starts
    arrays |= {_DROPPED + reason: indices for reason, indices in plan.dropped.items()}
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "layout": json.dumps(dataclasses.asdict(plan.layout)),
        "origin": json.dumps(dataclasses.asdict(plan.origin)),
    }
    metadata["digest"] = _digest(plan, metadata)
    partial = target.with_name(target.name + ".partial")
    try:
        save_file(arrays, partial, metadata=metadata)
        partial.replace(target)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise PlanFileError(f"{target}: cannot be written ({_one_line(error)}).") from error


def load_plan(path: str | Path) -> Plan:
    """Read a plan that `save_plan` wrote. Reading never executes code.

    Args:
        path: The file.

    Returns:
        The plan, equal to the one saved.

    Raises:
        PlanFileError: If the file is missing, truncated, changed, of a later format, or no plan.
    """
    source = Path(path)
    if not source.is_file():
        raise PlanFileError(f"{source}: no such plan file.")
    try:
        with safe_open(source, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise PlanFileError(
            f"{source}: truncated, or no safetensors file ({_one_line(error)})."
        ) from error
    if metadata.get("format") != FORMAT:
        raise PlanFileError(
            f"{source}: a safetensors file, but not a plan. Make one with Plan.save."
        )
    if metadata.get("format_version") != str(FORMAT_VERSION):
        raise PlanFileError(
            f"{source}: plan format {metadata.get('format_version')}, this version reads "
            f"{FORMAT_VERSION}. Plan again, or upgrade batchwright."
        )
    try:
        plan = _plan(arrays, metadata)
    except (KeyError, TypeError, ValueError) as error:
        raise PlanFileError(
            f"{source}: changed or damaged ({_one_line(error)}). Plan again."
        ) from error
    if metadata.get("digest") != _digest(plan, metadata):
        raise PlanFileError(f"{source}: its bytes were changed after it was saved. Plan again.")
    return plan


def _plan(arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> Plan:
    plan = Plan(
        arrays["indices"],
        arrays["offsets"],
        starts=arrays.get("starts"),
        dropped={
            name.removeprefix(_DROPPED): array
            for name, array in arrays.items()
            if name.startswith(_DROPPED)
        },
        layout=Layout(**json.loads(metadata["layout"])),
        origin=Origin(**json.loads(metadata["origin"])),
    )
    beyond = plan.origin.num_samples
    for samples in (plan.indices, *plan.dropped.values()):
        if samples.size and (samples.min() < 0 or (beyond is not None and samples.max() >= beyond)):
            raise PlanError(f"samples {samples.min()} to {samples.max()}, for {beyond} lengths")
    if plan.starts is not None and plan.starts.size and plan.starts.min() < 0:
        raise PlanError(f"a piece that starts at {plan.starts.min()}")
    return plan


def _digest(plan: Plan, metadata: dict[str, str]) -> str:
    told = f"{plan.digest()}{metadata['layout']}{metadata['origin']}"
    return hashlib.sha256(told.encode()).hexdigest()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
