"""Where a stream is: what it had read, what of that it held, how much of a window was emitted."""

from __future__ import annotations

import base64
import binascii
import operator
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from typing import Any

import numpy as np

from batchwright._states import opened, sealed
from batchwright.errors import PlanMismatchError
from batchwright.plans import Plan
from batchwright.streams.buffer import Bounds, Buffer
from batchwright.typing import IntArray, Last

STATE_VERSION = 2

_OWNER, _HOW = "a stream", "state_dict()"

_MOST = 1 << 53
_MOST_PLACES = 1 << 32  # what a state may ask to be unpacked: it may come from a damaged file


@dataclass(frozen=True)
class Settings:
    """What a stream was batched by when a window of it was planned.

    Attributes:
        batching: The batching, if it is one of ours. None: the user's own.
        buffer_size: Samples to hold.
        last: What becomes of samples at the end that fill no whole update.
    """

    batching: Mapping[str, Any] | None
    buffer_size: int
    last: Last


@dataclass(frozen=True)
class Position:
    """A place in a stream.

    Attributes:
        seed: The stream's seed.
        epoch: The epoch.
        shard: Number of this part of the stream, and how many there are.
        settings: What it is batched by.
        world_size: Ranks.
        accumulate: Batches of an update on each rank.
        window: Number of the window.
        read: Samples of this part that were read when the window was planned.
        first: Place of the oldest of them that was held.
        held: Which were held from there to `read`: bits, compressed, as text.
        pieces: The pieces held, of samples of which some pieces are gone.
        emitted: Batches of the window that were emitted, over all ranks.
        is_last: Whether the stream had ended.
        ended: Whether nothing is left.
        batches: Hash of the window's batches. None: nothing was planned yet.
    """

    seed: int
    epoch: int
    shard: tuple[int, int]
    settings: Settings
    world_size: int
    accumulate: int
    window: int = 0
    read: int = 0
    first: int = 0
    held: str = ""
    pieces: Bounds | None = None
    emitted: int = 0
    is_last: bool = False
    ended: bool = False
    batches: int | None = None

    def state(self) -> dict[str, Any]:
        """Write the position down, as JSON can keep it."""
        fields = {field.name: getattr(self, field.name) for field in dataclass_fields(self)}
        settings = {field.name: getattr(self.settings, field.name) for field in _SETTINGS}
        return sealed({**fields, "settings": settings}, version=STATE_VERSION)

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
    """Write down which samples are held: a bit for each since the oldest, compressed.

    Args:
        places: int64[k], ascending, below `read`.
        read: Samples read.

    Returns:
        The oldest place, and the text: a few KB for 20,000 samples.
    """
    first = int(places[0]) if places.size else read
    bits = np.zeros(read - first, dtype=np.uint8)
    bits[places - first] = 1
    return first, base64.b64encode(zlib.compress(np.packbits(bits).tobytes())).decode("ascii")


def pieces_left(buffer: Buffer) -> dict[int, list[tuple[int, int]]] | None:
    """List the pieces that are left of samples of which some are gone."""
    places, counts = np.unique(buffer.places, return_counts=True)
    held = counts[np.searchsorted(places, buffer.places)]
    partial = np.flatnonzero(held < buffer.pieces)
    left: dict[int, list[tuple[int, int]]] = {}
    for entry in partial.tolist():
        start = int(buffer.starts[entry])
        piece = (start, start + int(buffer.lengths[entry]))
        left.setdefault(int(buffer.places[entry]), []).append(piece)
    return left or None


def checksum(plan: Plan, buffer: Buffer) -> int:
    """Hash a window: its samples, their lengths, and the batches made of them."""
    arrays = (buffer.places, buffer.starts, buffer.lengths, plan.indices, plan.offsets)
    total = 0
    for array in arrays:
        total = zlib.crc32(np.ascontiguousarray(array, dtype="<i8").tobytes(), total)
    return total


def read_position(state: Mapping[str, Any], *, expected: Position) -> Position:
    """Check a state against the stream that it is to be used with.

    Args:
        state: What `Position.state` wrote, perhaps by way of JSON.
        expected: The beginning of that stream.

    Returns:
        The position in it.

    Raises:
        PlanMismatchError: If it is no state, of another format, seed, epoch or part.
    """
    names = [field.name for field in dataclass_fields(Position)]
    fields = opened(state, names, owner=_OWNER, version=STATE_VERSION, how=_HOW)
    try:
        position = Position(
            **{
                **fields,
                "shard": tuple(fields["shard"]),
                "settings": Settings(**fields["settings"]),
                "pieces": _bounds(fields["pieces"]),
            }
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise _changed(f"it cannot be read ({error})") from error
    if not _makes_sense(position):
        raise _changed("its numbers are none that a stream writes")
    if position.shard != expected.shard:
        raise PlanMismatchError(
            f"the state is of part {position.shard[0]} of {position.shard[1]} of the stream, "
            f"this is part {expected.shard[0]} of {expected.shard[1]}. Resume with the same number "
            "of workers."
        )
    for name in ("seed", "epoch"):
        given, ours = getattr(position, name), getattr(expected, name)
        if given != ours:
            raise PlanMismatchError(
                f"the state was saved with {name}={given!r}, now {name}={ours!r}. Use {given!r}."
            )
    return position


def _makes_sense(position: Position) -> bool:
    """Say whether all values are of their types and within their ranges."""
    settings, shard = position.settings, position.shard
    if len(shard) != 2 or type(settings.buffer_size) is not int:
        return False
    most_places = max(1 << 20, 1024 * settings.buffer_size)  # samples do not wait as long
    counts = (
        position.seed,
        position.epoch,
        position.window,
        position.read,
        position.first,
        position.emitted,
        shard[0],
    )
    sizes = (position.world_size, position.accumulate, settings.buffer_size, shard[-1])
    texts_and_flags = {type(position.is_last), type(position.ended), type(position.held)}
    return (
        all(type(number) is int and number >= 0 for number in counts)
        and all(type(size) is int and 0 < size < _MOST for size in sizes)
        and max(position.window, position.read, position.emitted) < _MOST
        and position.world_size * position.accumulate <= settings.buffer_size
        and shard[0] < shard[1]
        and 0 <= position.read - position.first < min(_MOST_PLACES, most_places)
        and type(position.held) is str
        and texts_and_flags == {bool, str}
        and position.emitted % position.world_size == 0
        and (position.batches is None or type(position.batches) is int)
        and settings.last in ("short", "drop", "repeat")
        and (settings.batching is None or isinstance(settings.batching, dict))
    )


def _bounds(given: Mapping[str, Any] | None) -> Bounds | None:
    if given is None:
        return None
    return {
        int(place): [(operator.index(start), operator.index(stop)) for start, stop in pieces]
        for place, pieces in given.items()
    }


def _changed(what: str) -> PlanMismatchError:
    return PlanMismatchError(f"the state was changed after it was saved: {what}.")


_SETTINGS = dataclass_fields(Settings)
