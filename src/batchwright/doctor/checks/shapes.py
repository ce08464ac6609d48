"""Shapes of batches, each of which a compiler may compile again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from batchwright._format import duration, percent, plural
from batchwright.doctor.finding import Finding
from batchwright.doctor.records import Rank, Run, Update
from batchwright.typing import FloatArray

LIMIT = 8
"""Compilations of a function after which torch runs it without compiling: its recompile limit."""

_STATIC = 3  # shapes that are compiled even if shapes are dynamic: one, any, and one row
_SLOW = 5.0  # times the seconds of a quick update; long batches may take three times as long
_SLOW_AS_FIRST = 0.25  # of the first update, which compiles


def compiled_shapes(run: Run) -> Iterator[Finding]:
    """Find models that are compiled again for each new shape of a batch.

    With dynamic shapes, torch compiles only two or three times. So this checks whether updates
    with a new shape still take long after the first few shapes.

    Source: our measurements: with `dynamic=False`, torch compiles 8 shapes, and silently runs all
    others uncompiled.

    Example:
        >>> list(compiled_shapes(Run(ranks=())))
        []
    """
    for rank in run.ranks:
        shapes = set().union(*map(_shapes, rank.updates))
        if not rank.compiles or rank.num_compilations < LIMIT or len(shapes) <= LIMIT:
            continue
        seconds = np.array([each.seconds for each in rank.updates], np.float64)
        quick = float(np.quantile(seconds, 0.25))
        slow = [number for number in _later_new(rank) if _is_slow(seconds[number], quick, seconds)]
        if len(slow) <= _STATIC:
            continue
        share = float(seconds[slow].sum() / seconds.sum())
        largest = max(batch.padded_tokens for each in rank.updates for batch in each.batches)
        yield Finding(
            name="a shape per update for the compiler",
            level="warning",
            figure=(
                f"{len(shapes)} shapes of batches in {plural(len(rank.updates), 'update')}, and "
                f"{plural(rank.num_compilations, 'compilation')}. {plural(len(slow), 'update')} "
                f"with a new shape took {duration(float(np.median(seconds[slow])))}, a quick one "
                f"takes {duration(quick)}."
            ),
            cost=(
                f"{percent(share)} of the time so far. After {LIMIT} compilations of a function, "
                "torch silently runs it uncompiled for other shapes."
            ),
            cure=(
                f"Compile with dynamic shapes, or use at most {LIMIT} shapes: `bw.Buckets` chooses "
                "those with the least padding; `pad_to_multiple_of` of a collator also reduces "
                "their number."
            ),
            share=share,
            code=_few_shapes(largest),
        )
        return


def _later_new(rank: Rank) -> list[int]:
    """Return the updates with a new shape, once some shapes were seen."""
    seen: set[tuple[int, int]] = set()
    found = []
    for number, update in enumerate(rank.updates):
        new = _shapes(update) - seen
        if new and len(seen) >= _STATIC:
            found.append(number)
        seen |= new
    return found


def _shapes(update: Update) -> set[tuple[int, int]]:
    return {(batch.rows, batch.width) for batch in update.batches}


def _is_slow(seconds: float, quick: float, all_seconds: FloatArray) -> bool:
    """Return whether an update took so long that it must have compiled."""
    return seconds > 0 and (
        seconds >= _SLOW * quick or seconds >= _SLOW_AS_FIRST * float(all_seconds[0])
    )


def _few_shapes(max_tokens: int) -> Sequence[str]:
    return (
        "model = torch.compile(model, dynamic=True)",
        "# or, with few shapes:",
        f"planner = bw.Planner(lengths, batching=bw.Buckets({LIMIT}, max_tokens={max_tokens}))",
        "collate = PadCollator(shapes=planner(0).layout.shapes)",
    )
