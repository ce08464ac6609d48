"""Where a stream is: what it had read, what of that it held, how much of a window was emitted."""

from __future__ import annotations

import base64
import binascii
import zlib
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from batchwright._states import built, fits, opened, sealed
from batchwright.errors import PlanError
from batchwright.streams.intake import Bounds, Buffer
from batchwright.typing import IntArray, Last, State

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchwright.plans import Plan

STATE_VERSION = 2

_MOST = 1 << 53
_MOST_PLACES = 1 << 32  # what a state may ask to be unpacked: it may come from a damaged file
_SEED_BITS = 1 << 13


@dataclass(frozen=True)
class Settings:
    """What a stream was batched by when a window of it was planned."""

    batching: State | None  # the batching, described. None: the user's own.
    buffer_size: int  # samples to hold
    last: Last  # what becomes of samples at the end that fill no whole update


@dataclass(frozen=True)
class Position:
    """A place in a stream."""

    seed: int
    epoch: int
    shard: tuple[int, int]  # number of this part of the stream, and how many there are
    settings: Settings
    world_size: int
    accumulate: int  # batches of an update on each rank
    window: int = 0  # number of the window
    read: int = 0  # samples of this part that were read when the window was planned
    first: int = 0  # place of the oldest of them that was held
    held: str = ""  # which were held from there to `read`: bits, compressed, as text
    pieces: Bounds | None = None  # the pieces held, of samples that were emitted in part
    emitted: int = 0  # batches of the window that were emitted, over all ranks
    is_last: bool = False  # whether the stream had ended
    ended: bool = False  # whether nothing is left
    batches: int | None = None  # hash of the window's batches. None: nothing was planned yet.

    def state(self) -> State:
        """Write the position down, as JSON can keep it."""
        return sealed(asdict(self), version=STATE_VERSION)

    @property
    def places(self) -> IntArray:
        """Places of the samples that were held, int64[h], ascending."""
        if not self.held:
            return np.empty(0, dtype=np.int64)
        span = self.read - self.first
        try:
            packed = zlib.decompressobj().decompress(base64.b64decode(self.held), span // 8 + 1)
            bits = np.unpackbits(np.frombuffer(packed, dtype=np.uint8), count=span)
        except (ValueError, TypeError, binascii.Error, zlib.error) as error:
            raise _changed(f"the samples held cannot be read ({error})") from error
        return self.first + np.flatnonzero(bits)


def packed_places(places: IntArray, read: int) -> tuple[int, str]:
    """Write down ascending places below `read`: the first, and a bit for each since, compressed."""
    first = int(places[0]) if places.size else read
    bits = np.zeros(read - first, dtype=np.uint8)
    bits[places - first] = 1
    return first, base64.b64encode(zlib.compress(np.packbits(bits).tobytes())).decode("ascii")


def pieces_left(buffer: Buffer) -> Bounds | None:
    """List the pieces that are left of samples that were emitted in part."""
    places, counts = np.unique(buffer.places, return_counts=True)
    held = counts[np.searchsorted(places, buffer.places)]
    left: Bounds = {}
    for entry in np.flatnonzero(held < buffer.pieces).tolist():
        place, start = int(buffer.places[entry]), int(buffer.starts[entry])
        piece = (start, start + int(buffer.lengths[entry]))
        left[place] = (*left.get(place, ()), piece)
    return left or None


def checksum(plan: Plan, buffer: Buffer) -> int:
    """Hash a window: its samples, their lengths, and the batches made of them."""
    total = 0
    for array in (buffer.places, buffer.starts, buffer.lengths, plan.indices, plan.offsets):
        total = zlib.crc32(np.ascontiguousarray(array, dtype="<i8").tobytes(), total)
    return total


def read_position(state: Mapping[str, object], *, expected: Position) -> Position:
    """Check a state against the beginning of the stream that it is to be used with."""
    names = [field.name for field in fields(Position)]
    given = opened(state, names, owner="a stream", version=STATE_VERSION, how="state_dict()")
    if not fits(given, Position, bits=_SEED_BITS):
        raise _changed("it has values of other types")
    try:
        position: Position = built(given, Position)
    except ValueError as error:  # a place of pieces that is no number
        raise _changed(f"it cannot be read ({error})") from error
    if not _is_in_range(position):
        raise _changed("its numbers are out of range")
    if position.shard != expected.shard:
        raise PlanError(
            f"the state is of part {position.shard[0]} of {position.shard[1]} of the stream, "
            f"this is part {expected.shard[0]} of {expected.shard[1]}. Resume with the same number "
            "of workers."
        )
    for name in ("seed", "epoch"):
        then, now = getattr(position, name), getattr(expected, name)
        if then != now:
            raise PlanError(
                f"the state was saved with {name}={then!r}, now {name}={now!r}. Use {then!r}."
            )
    return position


def _is_in_range(at: Position) -> bool:
    (index, count), buffer_size = at.shard, at.settings.buffer_size
    most_places = max(1 << 20, 1024 * buffer_size)  # no sample waits longer
    return (
        min(at.seed, at.epoch, at.window, at.read, at.first, at.emitted, index) >= 0
        and min(at.world_size, at.accumulate, buffer_size, count) > 0
        and max(at.window, at.read, at.emitted, buffer_size, count) < _MOST
        and at.world_size * at.accumulate <= buffer_size
        and index < count
        and 0 <= at.read - at.first < min(_MOST_PLACES, most_places)
        and at.emitted % at.world_size == 0
        and all(isinstance(place, int) for place in at.pieces or ())  # else beyond 64 bits
    )


def _changed(what: str) -> PlanError:
    return PlanError(f"the state was changed after it was saved: {what}.")
