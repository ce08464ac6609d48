"""Plans on disk: a safetensors file of arrays, with what they were made for as metadata."""

import dataclasses
import hashlib
import json
import operator
from collections.abc import Mapping
from itertools import repeat
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from batchwright._array_file import Arrays, Kind, load_arrays, one_line, parsed, save_arrays
from batchwright.errors import PlanError, PlanFileError
from batchwright.layout import Layout
from batchwright.plans import Origin, Plan

FORMAT = "batchwright-plan"
FORMAT_VERSION = 1

_KIND = Kind(FORMAT, str(FORMAT_VERSION), "a plan", "Make one with Plan.save.")
_DROPPED = "dropped."
_INTEGER_BITS = 63  # NumPy has to count with them ...
_SEED_BITS = 4096  # ... but for the seed
_LONGEST_VALUE = 60


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
    arrays = {"indices": plan.indices, "offsets": plan.offsets}
    if plan.starts is not None:
        arrays["starts"] = plan.starts
    arrays |= {_DROPPED + reason: indices for reason, indices in plan.dropped.items()}
    metadata = _KIND.metadata | {
        "layout": json.dumps(dataclasses.asdict(plan.layout), default=operator.index),
        "origin": json.dumps(dataclasses.asdict(plan.origin), default=operator.index),
    }
    metadata["digest"] = _digest(plan, metadata)
    save_arrays(path, arrays, metadata, PlanFileError)


def load_plan(path: str | Path) -> Plan:
    """Read a plan that `save_plan` wrote. Reading never executes code.

    Args:
        path: The file.

    Returns:
        The plan, equal to the one saved.

    Raises:
        PlanFileError: If the file is missing, truncated, changed, of a later format, or no plan.
    """
    arrays, metadata = load_arrays(path, _KIND, PlanFileError)
    try:
        plan = _plan(arrays, metadata)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise PlanFileError(
            f"{path}: changed or damaged ({one_line(error)}). Plan again."
        ) from error
    if metadata.get("digest") != _digest(plan, metadata):
        raise PlanFileError(f"{path}: its bytes were changed after it was saved. Plan again.")
    return plan


def _plan(arrays: Arrays, metadata: Mapping[str, str]) -> Plan:
    plan = Plan(
        arrays["indices"],
        arrays["offsets"],
        starts=arrays.get("starts"),
        dropped={
            name.removeprefix(_DROPPED): array
            for name, array in arrays.items()
            if name.startswith(_DROPPED)
        },
        layout=_checked(metadata["layout"], Layout),
        origin=_checked(metadata["origin"], Origin),
    )
    for name in arrays:
        if name not in {"indices", "offsets", "starts"} and not name.startswith(_DROPPED):
            raise PlanError(f"an array {_short(name)}, which no plan has")
    origin = plan.origin
    if min(origin.seed, origin.epoch) < 0:
        raise PlanError(f"seed {origin.seed} and epoch {origin.epoch}, expected 0 or more")
    if origin.world_size * origin.accumulate >= 2**_INTEGER_BITS:
        raise PlanError("more batches in an update than can be counted")
    beyond = origin.num_samples
    for samples in (plan.indices, *plan.dropped.values()):
        if samples.size and (samples.min() < 0 or (beyond is not None and samples.max() >= beyond)):
            raise PlanError(f"samples {samples.min()} to {samples.max()}, for {beyond} lengths")
    if plan.starts is not None and plan.starts.size and plan.starts.min() < 0:
        raise PlanError(f"a piece that starts at {plan.starts.min()}")
    return plan


def _checked(text: str, of: type[Any]) -> Any:
    """Make a layout or an origin of JSON that anybody may have written."""
    given = parsed(text)
    if not isinstance(given, dict):
        raise PlanError(f"{of.__name__} is {_short(given)}, expected an object")
    annotations = get_type_hints(of)
    for name, value in given.items():
        if name not in annotations:
            raise PlanError(f"{of.__name__} has no {_short(name)}")
        bits = _SEED_BITS if name == "seed" else _INTEGER_BITS
        if not _is_of_type(value, annotations[name], bits):
            raise PlanError(
                f"{of.__name__}({name}={_short(value)}) is of a wrong type or too large"
            )
    return of(**given)


def _is_of_type(value: Any, annotation: Any, bits: int) -> bool:
    """Say whether a value of JSON is what a field's annotation says; tuples are lists there."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin in {Union, UnionType}:
        return any(_is_of_type(value, each, bits) for each in inside)
    if origin is Literal:
        return isinstance(value, str) and value in inside
    if origin is tuple:
        if not isinstance(value, list):
            return False
        each_of = inside[:1] * len(value) if inside[-1] is Ellipsis else inside
        return len(value) == len(each_of) and all(map(_is_of_type, value, each_of, repeat(bits)))
    if annotation is int:
        return type(value) is int and value.bit_length() <= bits
    return type(value) is annotation


def _digest(plan: Plan, metadata: Mapping[str, str]) -> str:
    told = f"{plan.digest()}{metadata['layout']}{metadata['origin']}"
    return hashlib.sha256(told.encode()).hexdigest()


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 1] + "…"
