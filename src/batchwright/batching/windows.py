"""Windows of a shuffled sequence, each sorted and cut on its own: random samples, little padding.

A window is as many consecutive samples of the sequence as fill a given number of batches. Which
samples share an update is then what a plain shuffle would draw; only inside the window does
length decide.
"""

import numpy as np

from batchwright.batching.cuts import RowLimit, cut_runs, fit_runs
from batchwright.sharding import split_offsets
from batchwright.typing import FloatArray, IntArray

_PROBES = 64
_SPREADS = 3.0


def count_in_windows(lengths: IntArray, limit: RowLimit, window: int) -> int:
    """Estimate how many batches a sequence needs in windows, with room for uneven ones.

    Args:
        lengths: int64[m], tokens, in random sequence.
        limit: The rows that fit.
        window: Batches of one window.

    Returns:
        The number of batches. O(m).
    """
    volume = np.cumsum(1.0 / limit(lengths))
    num_windows = max(1, int(np.ceil(volume[-1] / window)))
    edges = _even_edges(volume, np.full(num_windows, window))
    probed = np.unique(np.linspace(0, num_windows - 1, _PROBES).astype(np.int64)).tolist()
    needed = np.array(
        [_needed(lengths[edges[i] : edges[i + 1]], limit) for i in probed], dtype=np.float64
    )
    # A window that holds `volume` batches' worth of samples needs a few more: those that are
    # cut between two lengths. They are as many in every window, so each is filled less.
    extra = needed.mean() - volume[-1] / num_windows + _SPREADS * needed.std() + 1
    room = max(window - extra, window / 2)
    return int(np.ceil(volume[-1] / room)) * window


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
        from long to short; and where windows begin and end, int64[w + 1], in batches. None if
        they do not fit. O(m log m).
    """
    quotas = np.full(-(-num_batches // window), window)
    quotas[-1] -= quotas.sum() - num_batches
    volume = np.cumsum(1.0 / limit(lengths))
    sizes: list[IntArray] = []
    start = 0
    left = num_batches
    for quota in quotas.tolist():
        before = volume[start - 1] if start else 0.0
        share = before + (volume[-1] - before) * quota / left
        left -= quota
        stop = int(np.searchsorted(volume, share)) if left else lengths.size
        stop = min(max(stop, start + quota), lengths.size - left)
        if stop - start < quota:
            return None
        cut = _fitted(lengths[start:stop], limit, quota)
        while cut is None and left:  # too much for this window: leave the rest to the next ones
            stop -= max(1, (stop - start) // 50)
            if stop - start < quota:
                return None
            cut = _fitted(lengths[start:stop], limit, quota)
        if cut is None:
            return None
        offsets = split_offsets(np.concatenate(([0], np.cumsum(cut))), quota)
        sizes.append(np.diff(offsets))
        start = stop
    return np.concatenate(sizes), np.concatenate(([0], np.cumsum(quotas)))


def _needed(lengths: IntArray, limit: RowLimit) -> int:
    values, counts = _runs(lengths)
    return cut_runs(counts, limit(values)).size if counts.size else 0


def _fitted(lengths: IntArray, limit: RowLimit, quota: int) -> IntArray | None:
    values, counts = _runs(lengths)
    return fit_runs(values, counts, limit, num_batches=quota, rounds=6)


def _runs(lengths: IntArray) -> tuple[IntArray, IntArray]:
    values, counts = np.unique(lengths, return_counts=True)
    return values[::-1], counts[::-1]


def _even_edges(volume: FloatArray, quotas: IntArray) -> list[int]:
    shares = np.cumsum(quotas) / quotas.sum() * volume[-1]
    edges = np.searchsorted(volume, shares)
    edges[-1] = volume.size
    return [0, *edges.tolist()]
