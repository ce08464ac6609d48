"""Plans on disk: a safetensors file of arrays, with what they were made for as metadata."""

import dataclasses
import hashlib
import json
import operator
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import numpy as np

from batchwright._array_file import Arrays, Kind, load_arrays, save_arrays
from batchwright._format import one_line
from batchwright._states import INTEGER_BITS, fits, parsed
from batchwright.errors import PlanError
from batchwright.layout import Padded, layout_of
from batchwright.typing import State

if TYPE_CHECKING:
    from batchwright.plans import Origin, Plan

FORMAT = "batchwright-plan"
FORMAT_VERSION = 1

_KIND = Kind(FORMAT, str(FORMAT_VERSION), "a plan", "Make one with Plan.save.")
_ARRAYS = {"indices", "offsets", "starts", "repeated"}
_DROPPED = "dropped."
_SEED_BITS = 4096
_LONGEST_VALUE = 60
_LONGEST_TEXT = 1 << 22  # a hundred thousand shapes


def save_plan(plan: "Plan", path: str | Path) -> None:
    """Write a plan as a safetensors file.

    The file holds `indices` and `offsets` (and `starts` and `dropped.REASON` where there are
    any, and `repeated`), and in its metadata the format version, the layout, the origin and a
    digest.
    """
    arrays = {"indices": plan.indices, "offsets": plan.offsets}
    if plan.starts is not None:
        arrays["starts"] = plan.starts
    if plan.repeated.size:
        arrays["repeated"] = plan.repeated
    arrays |= {_DROPPED + reason: indices for reason, indices in plan.dropped.items()}
    metadata = _KIND.metadata | {
        "layout": json.dumps(plan.layout.described(), default=operator.index),
        "origin": json.dumps(dataclasses.asdict(plan.origin), default=operator.index),
    }
    metadata["digest"] = _digest(plan, metadata)
    save_arrays(path, arrays, metadata, PlanError)


def load_plan(path: str | Path, plan_of: type["Plan"], origin_of: type["Origin"]) -> "Plan":
    """Read a plan that `save_plan` wrote. Reading never executes code."""
    arrays, metadata = load_arrays(path, _KIND, PlanError)
    try:
        plan = _plan(arrays, metadata, plan_of, origin_of)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise PlanError(
            f"{path}: changed or damaged ({one_line(error, 300)}). Plan again."
        ) from error
    if metadata.get("digest") != _digest(plan, metadata):
        raise PlanError(f"{path}: its bytes were changed after it was saved. Plan again.")
    return plan


def _plan(
    arrays: Arrays,
    metadata: Mapping[str, str],
    plan_of: type["Plan"],
    origin_of: type["Origin"],
) -> "Plan":
    plan = plan_of(
        arrays["indices"],
        arrays["offsets"],
        starts=arrays.get("starts"),
        dropped={
            name.removeprefix(_DROPPED): array
            for name, array in arrays.items()
            if name.startswith(_DROPPED)
        },
        layout=layout_of(
            **_checked("Layout", metadata["layout"], get_type_hints(Padded) | {"kind": str})
        ),
        origin=origin_of(**_checked("Origin", metadata["origin"], get_type_hints(origin_of))),
        repeated=arrays.get("repeated", np.empty(0, dtype=np.int64)),
    )
    for name in arrays:
        if name not in _ARRAYS and not name.startswith(_DROPPED):
            raise PlanError(f"an array {one_line(repr(name), _LONGEST_VALUE)}, which no plan has")
    origin = plan.origin
    if min(origin.seed, origin.epoch) < 0:
        raise PlanError(f"seed {origin.seed} and epoch {origin.epoch}, expected 0 or more")
    if origin.world_size * origin.accumulate >= 2**INTEGER_BITS:
        raise PlanError("more batches in an update than can be counted")
    beyond = origin.num_samples
    for samples in (plan.indices, plan.repeated, *plan.dropped.values()):
        if samples.size and beyond is not None and samples.max() >= beyond:
            raise PlanError(f"samples {samples.min()} to {samples.max()}, for {beyond} lengths")
    return plan


def _checked(name: str, text: str, types: Mapping[str, Any]) -> State:
    """Read the settings of a layout or an origin from JSON that anybody may have written."""
    if len(text) > _LONGEST_TEXT:
        raise PlanError(f"{name} of {len(text)} characters")
    given = parsed(text)
    if not isinstance(given, dict):
        raise PlanError(f"{name} is {one_line(repr(given), _LONGEST_VALUE)}, expected an object")
    for key, value in given.items():
        bits = _SEED_BITS if key == "seed" else INTEGER_BITS
        if key not in types or not fits(value, types[key], bits=bits):
            shown = f"{one_line(key, _LONGEST_VALUE)}={one_line(repr(value), _LONGEST_VALUE)}"
            raise PlanError(f"{name}({shown}) is unknown, of a wrong type or too large")
    return given


def _digest(plan: "Plan", metadata: Mapping[str, str]) -> str:
    text = f"{plan.digest()}{metadata['layout']}{metadata['origin']}"
    if plan.repeated.size:
        text += str(plan.repeated.tolist())
    return hashlib.sha256(text.encode()).hexdigest()
