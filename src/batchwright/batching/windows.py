"""Windows of a shuffled sequence, each sorted and cut on its own: random samples, little padding.

A window is as many consecutive samples of the sequence as fill a given number of batches. Which
samples share an update is then what a plain shuffle would draw; only inside the window does
length decide.
"""

import numpy as np

from batchwright.batching.cuts import RowLimit, cut_runs, fit_runs
from batchwright.typing import FloatArray, IntArray
from batchwright.updates import split_offsets

_RUNS = 8
_WINDOWS = 8
_ROOM = 1.03


def count_in_windows(lengths: IntArray, limit: RowLimit, window: int) -> int:
    """Estimate how many batches a sequence needs in windows, with room for uneven ones.

    Args:
        lengths: int64[m], tokens, in random sequence.
        limit: The rows that fit.
        window: Batches of one window.

    Returns:
        The number of batches; the last window may hold fewer. O(m).
    """
    volume = _volume(lengths, limit)
    # A full window ends before a long sample, with which the next begins: fill some in a row.
    held: list[float] = []
    for begin in np.searchsorted(volume, np.linspace(0, volume[-1], _RUNS, endpoint=False)):
        start = int(begin)
        for _ in range(_WINDOWS):
            before = volume[start - 1] if start else 0.0
            reach = int(np.searchsorted(volume, before + window)) + 1
            if reach > lengths.size and held:
                break  # cut short by the end of the sequence, not by the budget
            stop = _filled(lengths, limit, window, start, min(reach, lengths.size))
            held.append(float(volume[stop - 1] - before))
            start = stop
            if stop == lengths.size:
                break
    # A window that holds less leaves the rest to the next: their mean has to suffice.
    many = volume[-1] / float(np.mean(held))
    spare = float(np.std(held) / np.mean(held)) * 2 / np.sqrt(max(many, 1.0))
    return int(np.ceil(many * (_ROOM + spare) * window))


def cut_in_windows(
    lengths: IntArray, limit: RowLimit, window: int, *, num_batches: int
) -> tuple[IntArray, IntArray] | None:
    """Cut a sequence into exactly a number of batches, window by window.

    Args:
        lengths: int64[m], tokens, in random sequence.
        limit: The rows that fit.
        window: Batches of one window; the last window holds what is left.
        num_batches: How many batches to make.

    Returns:
        Samples in each batch, int64[num_batches], where the samples of a window are sorted
        from long to short; and where windows begin and end, int64[w + 1], in batches. Should
        the last windows not hold what is left, as many as need be become one. None if not even
        all of them do. O(m log m).
    """
    edges = [*range(0, num_batches, window), num_batches]
    volume = _volume(lengths, limit)
    starts: list[int] = []
    sizes: list[IntArray] = []
    start = 0
    for done, quota in zip(edges[1:], np.diff(edges).tolist(), strict=True):
        starts.append(start)
        left = num_batches - done
        share = np.searchsorted(volume, volume[-1] * done / num_batches) if left else lengths.size
        stop = min(max(int(share), start + quota), lengths.size - left)
        cut = _fitted(lengths[start:stop], limit, quota)
        if cut is None and left:
            stop = _filled(lengths, limit, quota, start, stop)
            cut = _fitted(lengths[start:stop], limit, quota)
        if cut is None:
            return _with_one_tail(lengths, limit, edges, starts, sizes)
        sizes.append(cut)
        start = stop
    return np.concatenate(sizes), np.array(edges)


def _with_one_tail(
    lengths: IntArray,
    limit: RowLimit,
    edges: list[int],
    starts: list[int],
    sizes: list[IntArray],
) -> tuple[IntArray, IntArray] | None:
    """Make the last 2, 4, 8 … windows one, until it holds what is left: more to sort pads less."""
    merged = 2
    while merged < 2 * len(starts):
        first = max(len(starts) - merged, 0)
        cut = _fitted(lengths[starts[first] :], limit, edges[-1] - edges[first])
        if cut is not None:
            kept = [*edges[: first + 1], edges[-1]]
            return np.concatenate([*sizes[:first], cut]), np.array(kept)
        merged *= 2
    return None


def _volume(lengths: IntArray, limit: RowLimit) -> FloatArray:
    """Add up the share of a batch that each sample takes at least."""
    return np.cumsum(1.0 / limit(lengths))


def _filled(lengths: IntArray, limit: RowLimit, window: int, start: int, stop: int) -> int:
    """Return where a window that starts here is full, at `stop` at the latest."""
    fits, too_far = min(start + window, stop), stop + 1
    while too_far - fits > 1 + (stop - start) // 100:
        middle = (fits + too_far) // 2
        _, counts, rows = _runs(lengths[start:middle], limit)
        fits, too_far = (
            (fits, middle) if cut_runs(counts, rows).size > window else (middle, too_far)
        )
    return fits


def _fitted(lengths: IntArray, limit: RowLimit, quota: int) -> IntArray | None:
    """Cut one window into exactly its quota of batches; None if it needs more, or is too small."""
    if lengths.size < quota:
        return None
    values, counts, _ = _runs(lengths, limit)
    sizes = fit_runs(values, counts, limit, num_batches=quota, rounds=6)
    if sizes is None:
        return None
    return np.diff(split_offsets(np.concatenate(([0], np.cumsum(sizes))), quota))


def _runs(lengths: IntArray, limit: RowLimit) -> tuple[IntArray, IntArray, IntArray]:
    values, counts = np.unique(lengths, return_counts=True)
    return values[::-1], counts[::-1], limit(values[::-1])
