"""Plans on disk: a safetensors file of arrays, with what they were made for as metadata."""

import contextlib
import dataclasses
import hashlib
import json
import operator
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import numpy as np

from batchwright._array_file import Arrays, Kind, check_seal, load_arrays, save_arrays, sealed
from batchwright._format import one_line
from batchwright._states import INTEGER_BITS, fits, parsed
from batchwright.batches import Batches, OnDemand, Part
from batchwright.batching.cut import Cut
from batchwright.batching.fixed_size import Even
from batchwright.errors import PlanError, SourceNotFoundError
from batchwright.index import LengthIndex
from batchwright.indexed import Indexed
from batchwright.layout import Padded, layout_of
from batchwright.placement import Placement
from batchwright.typing import IntArray, State

if TYPE_CHECKING:
    from batchwright.plans import Origin, Plan

FORMAT = "batchwright-plan"
FORMAT_VERSION = 1
_RECIPE_VERSION = 2
"""The format of a file that holds what batches are computed from."""

_KIND = Kind(
    FORMAT, str(FORMAT_VERSION), "a plan", "Make one with Plan.save.", others=(_RECIPE_VERSION,)
)
_PLACEMENT = ("num_batches", "start", "world_size", "accumulate", "key")
_ARRAYS = {"indices", "offsets", "starts", "groups", "repeated"}
_RECIPE_ARRAYS = {"cut", "places", "repeated"}
_DROPPED = "dropped."
_SEED_BITS = 4097  # a seed may be 2**4096
_LONGEST_VALUE = 60
_LONGEST_TEXT = 1 << 22  # a hundred thousand shapes


def save_plan(plan: "Plan", path: str | Path, *, as_arrays: bool) -> None:
    """Write a plan as a safetensors file.

    The file holds `indices` and `offsets` (and `starts`, `groups` and `dropped.REASON` where there
    are any, and `repeated`), and in its metadata the format version, the layout, the origin and a
    digest. Of batches that are computed from an index in a file, it holds what they are computed
    from in place of `indices` and `offsets`, unless they are wanted `as_arrays`.
    """
    others = {"repeated": plan.repeated} if plan.repeated.size else {}
    others |= {_DROPPED + reason: indices for reason, indices in plan.dropped.items()}
    metadata = {
        "layout": json.dumps(plan.layout.described(), default=operator.index),
        "origin": json.dumps(dataclasses.asdict(plan.origin), default=operator.index),
    }
    described = None if as_arrays else _described(plan.batches)
    if described is not None:
        arrays = described[1] | others
        metadata |= _KIND.metadata | {"format_version": str(_RECIPE_VERSION)}
        metadata |= {"recipe": json.dumps(dataclasses.asdict(described[0]))}
        metadata["identity"] = plan.identity()
        return save_arrays(path, arrays, sealed(arrays, metadata), PlanError)
    arrays = {"indices": plan.indices, "offsets": plan.offsets}
    if plan.starts is not None:
        arrays["starts"] = plan.starts
    if plan.groups is not None:
        arrays["groups"] = plan.groups
    metadata = _KIND.metadata | metadata
    metadata["digest"] = _digest(plan, metadata)
    return save_arrays(path, arrays | others, metadata, PlanError)


def load_plan(
    path: str | Path,
    plan_of: type["Plan"],
    origin_of: type["Origin"],
    index: str | Path | None = None,
) -> "Plan":
    """Read a plan that `save_plan` wrote. Reading never executes code."""
    arrays, metadata = load_arrays(path, _KIND, PlanError)
    is_recipe = metadata["format_version"] == str(_RECIPE_VERSION)
    if is_recipe:
        check_seal(path, arrays, metadata, _KIND, PlanError)
    with _explaining(path):
        others = _others(arrays, metadata, origin_of, _RECIPE_ARRAYS if is_recipe else _ARRAYS)
        if is_recipe:
            recipe = _recipe(metadata)
        else:
            given = arrays["indices"], arrays["offsets"], arrays.get("starts")
            plan = plan_of(*given, groups=arrays.get("groups"), **others)
            _check_samples(plan.origin, plan.indices)
    if not is_recipe:
        if metadata.get("digest") != _digest(plan, metadata):
            raise PlanError(f"{path}: its bytes were changed after it was saved. Plan again.")
        return plan
    opened = _opened(recipe, path, index)
    with _explaining(path):
        plan = plan_of.of(_rebuilt(recipe, arrays, opened), **others)
        plan.check_made_for(opened.num_samples, opened.fingerprint)
        if plan.identity() != metadata["identity"]:
            raise PlanError("its parts do not fit together")
        return plan


@contextlib.contextmanager
def _explaining(path: str | Path) -> Iterator[None]:
    """Name the file where its content is no plan."""
    try:
        yield
    except (ArithmeticError, IndexError, KeyError, TypeError, ValueError) as error:
        raise PlanError(
            f"{path}: changed or damaged ({one_line(error, 300)}). Plan again."
        ) from error


def _others(
    arrays: Arrays, metadata: Mapping[str, str], origin_of: type["Origin"], known: Collection[str]
) -> dict[str, Any]:
    """Return all of a plan but its batches."""
    for name in arrays:
        if name not in known and not name.startswith(_DROPPED):
            raise PlanError(f"an array {one_line(repr(name), _LONGEST_VALUE)}, which no plan has")
    origin = origin_of(**_checked("Origin", metadata["origin"], get_type_hints(origin_of)))
    if origin.world_size * origin.accumulate >= 2**INTEGER_BITS:
        raise PlanError("more batches in an update than can be counted")
    dropped = {
        name.removeprefix(_DROPPED): array
        for name, array in arrays.items()
        if name.startswith(_DROPPED)
    }
    repeated = arrays.get("repeated", np.empty(0, dtype=np.int64))
    _check_samples(origin, repeated, *dropped.values())
    types = get_type_hints(Padded) | {"kind": str}
    layout = layout_of(**_checked("Layout", metadata["layout"], types))
    return {"dropped": dropped, "layout": layout, "origin": origin, "repeated": repeated}


def _check_samples(origin: "Origin", *several: IntArray) -> None:
    beyond = origin.num_samples
    for samples in several:
        if samples.size and beyond is not None and samples.max() >= beyond:
            raise PlanError(f"samples {samples.min()} to {samples.max()}, for {beyond} lengths")


# -- Batches that are computed from an index ------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """What batches are computed from, as JSON can keep it; arrays are kept beside it."""

    index: str
    fingerprint: str
    skip: int
    limit: int | None
    key: int
    placement: dict[str, int] | None
    even: dict[str, int] | None  # None: arrays say where batches are cut
    places: tuple[int, ...] | None  # a range. None: an array


def _described(batches: Batches) -> tuple[Recipe, Arrays] | None:
    """Describe batches; None: as arrays only."""
    if not isinstance(batches, OnDemand) or len(batches.parts) != 1:
        return None
    (part,), places = batches.parts, batches.places
    samples, cut, placement = part.samples, part.cut, part.placement
    if not isinstance(samples, Indexed) or samples.items or samples.index.path is None:
        return None
    recipe = Recipe(
        str(samples.index.path),
        samples.index.fingerprint,
        samples.skip,
        samples.limit,
        part.key,
        None if placement is None else {name: getattr(placement, name) for name in _PLACEMENT},
        dataclasses.asdict(cut) if isinstance(cut, Even) else None,
        (places.start, places.stop, places.step) if isinstance(places, range) else None,
    )
    arrays = {} if isinstance(places, range) else {"places": places}
    if isinstance(cut, Cut):
        arrays["cut"] = np.frombuffer(cut.packed(), np.int8)
    return recipe, arrays


def _recipe(metadata: Mapping[str, str]) -> Recipe:
    given = parsed(metadata["recipe"])
    recipe = Recipe(**given) if fits(given, Recipe, bits=64) else None
    if recipe is None or min(recipe.skip, recipe.limit or 1) < 0 or recipe.limit == 0:
        raise PlanError(f"the recipe {one_line(repr(given), _LONGEST_VALUE)}")
    return recipe


def _opened(recipe: Recipe, path: str | Path, index: str | Path | None) -> LengthIndex:
    """Open the index of a recipe: the one named, else where it was, else beside the plan."""
    places = [Path(recipe.index), Path(path).parent / Path(recipe.index).name]
    if index is not None:
        places = [Path(index)]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise SourceNotFoundError(
            f"{path}: its batches are computed from the length index "
            f"{one_line(str(places[0]), 200)}, which is not there. Name it: Plan.load(…, index=…)."
        )
    opened = LengthIndex.open(found)
    if opened.fingerprint != recipe.fingerprint:
        raise PlanError(
            f"{path}: {found} is an index of other lengths. Name that of the plan: "
            "Plan.load(…, index=…); or plan again."
        )
    return opened


def _rebuilt(recipe: Recipe, arrays: Arrays, index: LengthIndex) -> OnDemand:
    """Make batches of what `_described` returned; raise if its parts do not fit together."""
    samples = Indexed(index, recipe.skip, recipe.limit)
    total = int(samples.counts.sum())
    cut: Cut | Even
    if recipe.even is None:
        cut = Cut.unpacked(arrays["cut"].tobytes(), total)
    else:
        cut = Even(**recipe.even)
        total = total if 1 <= cut.num_batches <= total and cut.batch_size >= 1 else -1
    if cut.num_samples != total:
        raise PlanError("it does not cut the samples of the index")
    placement = None if recipe.placement is None else Placement(**recipe.placement)
    places = arrays["places"] if recipe.places is None else range(*recipe.places)
    ends = (places[0], places[-1]) if isinstance(places, range) else (places.min(), places.max())
    if not isinstance(places, range) and (places.ndim != 1 or places.dtype != np.int64):
        raise PlanError("batches are numbered by no whole numbers")
    if not 0 <= min(ends) <= max(ends) < cut.num_batches:
        raise PlanError(f"batches {min(ends)} to {max(ends)} of {cut.num_batches}")
    if placement is not None and (
        placement.num_batches != cut.num_batches
        or min(placement.world_size, placement.accumulate) < 1
        or placement.start < 0
    ):
        raise PlanError(f"the placement {placement}")
    return OnDemand((Part(samples, cut, placement, recipe.key),), places)


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
