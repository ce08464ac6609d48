"""Where a stream is: what it had read, what of that it held, how much of a window was emitted."""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from batchwright.errors import PlanMismatchError
from batchwright.plans import Plan
from batchwright.streams.buffer import Buffer
from batchwright.typing import IntArray

STATE_VERSION = 1

_MOST_PLACES = 1 << 32  # what a state may ask to be unpacked: it may come from a damaged file


@dataclass(frozen=True)
class Position:
    """A place in a stream.

    Attributes:
        seed: The stream's seed.
        epoch: The epoch.
        shard: Number of this part of the stream, and how many there are.
        world_size: Ranks.
        accumulate: Batches of an update on each rank.
        window: Number of the window.
        read: Samples of this part that were read when the window was planned.
        first: Place of the oldest of them that was held.
        held: Which were held from there to `read`: bits, compressed, as text.
        pieces: Place → starts of the pieces held, of samples of which some pieces are gone.
        emitted: Batches of the window that were emitted, over all ranks.
        is_last: Whether the stream had ended.
        ended: Whether nothing is left.
        checksum: Of the window's batches. None: nothing was planned yet.
    """

    seed: int
    epoch: int
    shard: tuple[int, int]
    world_size: int
    accumulate: int
    window: int = 0
    read: int = 0
    first: int = 0
    held: str = ""
    pieces: Mapping[str, list[int]] | None = None
    emitted: int = 0
    is_last: bool = False
    ended: bool = False
    checksum: int | None = None

    def state(self) -> dict[str, Any]:
        """Write the position down, as JSON can keep it."""
        fields = asdict(self)
        return {"version": STATE_VERSION, **fields, "shard": list(self.shard)}

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


def pieces_left(buffer: Buffer) -> dict[str, list[int]] | None:
    """List the pieces that are left of samples of which some are gone."""
    places, counts = np.unique(buffer.places, return_counts=True)
    held = counts[np.searchsorted(places, buffer.places)]
    partial = np.flatnonzero(held < buffer.pieces)
    left: dict[str, list[int]] = {}
    for place, start in zip(
        buffer.places[partial].tolist(), buffer.starts[partial].tolist(), strict=True
    ):
        left.setdefault(str(place), []).append(start)
    return left or None


def without_gone_pieces(buffer: Buffer, left: Mapping[str, list[int]] | None) -> Buffer:
    """Take away the pieces that were emitted before a state was saved."""
    if not left:
        return buffer
    keep = np.ones(buffer.places.size, dtype=np.bool_)
    try:
        for place, starts in left.items():
            ours = slice(*np.searchsorted(buffer.places, [int(place), int(place) + 1]).tolist())
            keep[ours] = np.isin(buffer.starts[ours], starts)
    except (AttributeError, TypeError, ValueError) as error:
        raise _changed(f"the pieces held cannot be read ({error})") from error
    return buffer.take(keep)


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
    try:
        fields = dict(state)
        version = fields.pop("version")
        shard = tuple(fields.pop("shard"))
        position = Position(**fields, shard=shard)
    except (TypeError, KeyError, ValueError) as error:
        raise PlanMismatchError(
            f"not a state of a stream ({type(error).__name__}: {error}). Load what state_dict() "
            "returned."
        ) from error
    if version != STATE_VERSION:
        raise PlanMismatchError(
            f"the state has format {version!r}, this version reads {STATE_VERSION}. Resume with "
            "the version of batchwright that saved it."
        )
    if position.shard != expected.shard:
        raise PlanMismatchError(
            f"the state is of part {position.shard[:1]} of {position.shard[1:]} of the stream, "
            f"this is part {expected.shard[0]} of {expected.shard[1]}. Resume with the same number "
            "of workers."
        )
    for name in ("seed", "epoch"):
        given, ours = getattr(position, name), getattr(expected, name)
        if given != ours:
            raise PlanMismatchError(
                f"the state was saved with {name}={given!r}, now {name}={ours!r}. Use {given!r}."
            )
    numbers = (position.window, position.read, position.first, position.emitted)
    sizes = (position.world_size, position.accumulate)
    if (
        not all(type(number) is int and number >= 0 for number in numbers)
        or not all(type(size) is int and size > 0 for size in sizes)
        or not 0 <= position.read - position.first < _MOST_PLACES
        or not isinstance(position.held, str)
        or not {type(position.is_last), type(position.ended)} <= {bool}
    ):
        raise _changed(f"it says {numbers} and {sizes}, expected whole numbers")
    return position


def _changed(what: str) -> PlanMismatchError:
    return PlanMismatchError(f"the state was changed after it was saved: {what}.")
