"""The plain way to a stream of batches."""

from __future__ import annotations

from batchwright.batching import Batching
from batchwright.batching.custom import BatchingFunction, as_batching
from batchwright.streams.batch_stream import BatchStream
from batchwright.streams.buffer import Cut, Measure
from batchwright.streams.source import Samples
from batchwright.typing import Last


def stream(
    samples: Samples,
    *,
    batching: Batching | BatchingFunction,
    length: Measure | None = None,
    cut: Cut | None = None,
    buffer_size: int = 20_000,
    seed: int = 0,
    epoch: int = 0,
    world_size: int = 1,
    rank: int = 0,
    accumulate: int = 1,
    part: tuple[int, int] = (0, 1),
    presharded: bool = False,
    last: Last = "short",
) -> BatchStream:
    """Batch samples whose lengths are only known when they arrive.

    Reads `buffer_size` samples, plans them as an epoch, emits a random half of the updates, and
    plans what stays together with the next samples. So long and short ones mix over windows,
    and no window ends in half-filled batches.

    Guarantees that every sample is emitted exactly once (or dropped or cut, where the batching's
    `oversize` says so), that no batch exceeds its budget, and that every rank gets the same
    number of batches, a multiple of `accumulate`: at the end, batches are split for it. Where the
    last few samples cannot be split so far, `last` decides. It is a pure function
    of the arguments and the samples: all ranks read the whole stream, each gets its share of the
    same batches, and nobody talks. At most `buffer_size` samples are held at a time, besides the
    batch handed out. After the first batch, which waits for a full buffer, what replaces a batch is
    read when the next is asked for. A sample that eight buffers were read after is emitted first.

    Args:
        samples: A sequence, a function ``start → iterator`` that begins with sample `start`, or
            anything else to iterate over. The same samples on every rank. Where it has a
            `set_epoch`, that is called with `epoch` before it is read.
        batching: How samples become batches: `TokenBudget`, `Packing`, `FixedSize`, or a function
            ``(order, lengths, rng) → Plan``.
        length: ``sample → length``, one whole number; None is `len`. Or a tuple of them, as many
            for every sample: one for each column, such as source and target. Called on every
            sample on every rank: it had better be cheap, and costly work left to after the batch
            is there.
        cut: ``(sample, start, stop) → sample``, for samples above the budget that are truncated
            or split; None is ``sample[start:stop]``. Of several columns, `start` and `stop` are
            tuples, and None cuts the sequences of a tuple, one for each column.
        buffer_size: Samples to hold. A larger buffer pads less and mixes further.
        seed: Zero or larger.
        epoch: Zero or larger: another epoch makes other batches.
        world_size: Ranks that share each update.
        rank: This process, from 0.
        accumulate: Batches of one update on each rank.
        part: ``(index, count)``: take only the samples ``index, index + count, …`` of the stream,
            as one of `count` workers of this rank. Each part is a stream of its own, with all of
            the guarantees; the parts together are the whole.
        presharded: `samples` is that part already: all of it is taken.
        last: What becomes of samples that are too few for a whole last update, however batches are
            split. ``"short"``: the last update has fewer batches, as many on every rank; where not
            every rank gets one, fewer samples than ranks come twice, with a warning. ``"drop"``:
            they are left out, and listed in `dropped`. ``"repeat"``: the update is filled with
            samples that come twice.

    Returns:
        An iterator of batches, lists of samples (under `Packing`, the samples of a row), with
        `state_dict` and `load_state_dict`. For each window O(k log k) with k samples held; each
        sample is planned about twice.

    Raises:
        BudgetError: If the settings make no sense, or the buffer is too small for two updates. When
            read: if a sample exceeds the budget and no policy was chosen.
        LengthsError: When read: if a length is no whole number of at least 1, or a sample has
            more or fewer lengths than the first.
        SourceError: If `samples` cannot be read; when read: if there is none.
        PlanError: If rank, part or epoch make no sense.

    Example:
        >>> from batchwright import TokenBudget
        >>> words = "a stream of words of unknown length for two ranks".split()
        >>> batches = list(stream(words, batching=TokenBudget(16), buffer_size=6))
        >>> all(len(batch) * max(map(len, batch)) <= 16 for batch in batches)
        True
        >>> sorted(sum(batches, [])) == sorted(words)
        True

        Pairs of a source and a target, padded each:

        >>> pairs = [([1] * source, [2] * (source + 1)) for source in (3, 1, 2, 3)]
        >>> sizes = lambda pair: (len(pair[0]), len(pair[1]))
        >>> batches = list(stream(pairs, length=sizes, batching=TokenBudget((6, 8)), buffer_size=4))
        >>> sorted(sorted(map(sizes, batch)) for batch in batches)
        [[(1, 2), (2, 3)], [(3, 4), (3, 4)]]
    """
    return BatchStream(
        samples,
        batching=as_batching(batching),
        length=length,
        cut=cut,
        buffer_size=buffer_size,
        seed=seed,
        epoch=epoch,
        world_size=world_size,
        rank=rank,
        accumulate=accumulate,
        part=part,
        presharded=presharded,
        last=last,
    )
