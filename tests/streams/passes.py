"""Streams that the tests share, and slow and obvious checks of what comes out of them."""

import json
import math
import re
import warnings
from collections import Counter

from hypothesis import strategies as st

import batchwright as bw
from batchwright.streams import stream
from tests.reference import packed_tokens, padded_tokens, rounded

LONGEST = 12


def in_threes(order, lengths, rng):
    return bw.Plan(order, [*range(0, order.size, 3), order.size])


ROOMY = (
    bw.TokenBudget(48),
    bw.TokenBudget(64, pad_to_multiple_of=4, max_samples=3),
    bw.TokenBudget(60, batch_size_multiple_of=2, mixing="update"),
    bw.TokenBudget(60, mixing=2),
    bw.Packing(50),
    bw.Packing(50, method="next_fit", align=4),
    bw.FixedSize(3),
    in_threes,
)
"""Every sample shares a batch with others: their number can be equal whenever it has to be."""

TIGHT = (
    bw.TokenBudget(LONGEST),
    bw.Packing(LONGEST),
    bw.Packing(7, oversize="split"),
    bw.Packing(7, oversize="split", align=3),
    bw.Packing(7, oversize="truncate"),
    bw.TokenBudget(9, oversize="truncate"),
    bw.TokenBudget(9, oversize="drop"),
    bw.Packing(9, oversize="drop", max_samples=2),
)


ROOMY_COLUMNS = (
    bw.TokenBudget(90),
    bw.TokenBudget((48, 60)),
    bw.TokenBudget((64, 50), pad_to_multiple_of=4, max_samples=3),
    bw.TokenBudget(400, area="product", batch_size_multiple_of=2),
    bw.Packing(60),
    bw.Packing((36, 50)),
    bw.Packing((36, 50), method="next_fit", align=4),
    bw.FixedSize(3),
    in_threes,
)

TIGHT_COLUMNS = (
    bw.TokenBudget(2 * LONGEST),
    bw.TokenBudget(18, oversize="drop"),
    bw.TokenBudget((9, LONGEST), oversize="drop", max_samples=2),
    bw.Packing((LONGEST, LONGEST)),
    bw.Packing((LONGEST, 9), oversize="truncate"),
    bw.Packing((7, 9), oversize="truncate", align=3),
    bw.Packing(15, oversize="drop"),
)
"""The same for samples of two columns."""


def sample(number, length):
    """Sample i is as often i as it is long: what a batch holds can be read off it."""
    if isinstance(length, tuple):
        return tuple([number] * each for each in length)
    return [number] * length


def number_of(tokens):
    return tokens[0][0] if isinstance(tokens, tuple) else tokens[0]


def size_of(tokens):
    return tuple(map(len, tokens)) if isinstance(tokens, tuple) else len(tokens)


SOURCES = {
    "sequence": lambda samples: samples,
    "function": lambda samples: lambda start: iter(samples[start:]),
    "iterator": iter,
}


@st.composite
def settings_of_streams(draw, *, roomy=False, min_samples=1):
    """Draw the arguments of a stream, of samples of one column or of two."""
    world_size, accumulate = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    one = st.integers(1, LONGEST)
    has_columns = draw(st.booleans())
    each = st.tuples(one, one) if has_columns else one
    lengths = draw(st.lists(each, min_size=min_samples, max_size=90))
    lengths[0] = (5, 7) if has_columns else min(lengths[0], 7)  # one stays, whatever is dropped
    batchings = ROOMY_COLUMNS if has_columns else ROOMY
    if not roomy:
        batchings = (*batchings, *(TIGHT_COLUMNS if has_columns else TIGHT))
    smallest = 4 * world_size * accumulate
    return {
        "samples": [sample(number, length) for number, length in enumerate(lengths)],
        "length": size_of,
        "batching": draw(st.sampled_from(batchings)),
        "buffer_size": smallest + draw(st.sampled_from([0, 1, 7, 40, 200])),
        "world_size": world_size,
        "accumulate": accumulate,
        "last": draw(st.sampled_from(("short", "short", "drop", "repeat"))),
        "seed": draw(st.integers(0, 3)),
        "epoch": draw(st.integers(0, 3)),
    }


def batches_of(options, *, rank=0, source="sequence", **others):
    options = options | others
    samples = SOURCES[source](options.pop("samples"))
    return stream(samples, rank=rank, **options)


def of_all_ranks(options, **others):
    """Return the batches of all ranks in global sequence, and how many samples are said to repeat."""
    per_rank, said = [], []
    for rank in range(options["world_size"]):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            per_rank.append(list(batches_of(options, rank=rank, **others)))
        said.append([str(each.message) for each in caught])
    assert all(each == said[0] for each in said)
    assert len({len(batches) for batches in per_rank}) == 1, "ranks have unequal counts"
    batches = [batch for slot in zip(*per_rank, strict=True) for batch in slot]
    return batches, sum(int(re.search(r"(\d+) come twice", each)[1]) for each in said[0])


def expected_items(samples, batching):
    """What is to come out, as (number, length): one sample after the other, by the book."""
    layout, oversize = getattr(batching, "layout", None), getattr(batching, "oversize", "error")
    items = Counter()
    for tokens in samples:
        number, length = number_of(tokens), size_of(tokens)
        if isinstance(length, tuple):
            cut = length
            if oversize == "truncate":
                caps = [cap - cap % layout.multiple for cap in layout.caps]
                cut = tuple(map(min, length, caps))
            if layout is None or within_budget([cut], layout):
                items[number, cut] += 1
            continue
        limit = layout.budget if layout and layout.budget else length
        limit -= limit % (layout.multiple if layout else 1)
        if layout is None or layout.budget is None:
            limit = length
        if length <= limit:
            items[number, length] += 1
        elif oversize == "truncate":
            items[number, limit] += 1
        elif oversize == "split":
            while length > 0:
                items[number, min(length, limit)] += 1
                length -= limit
    return items


def items_of(batches):
    return Counter((number_of(tokens), size_of(tokens)) for batch in batches for tokens in batch)


def within_budget(sizes, layout):
    """Say whether samples of these lengths, or tuples of lengths, fit into one batch."""
    if layout.max_samples is not None and len(sizes) > layout.max_samples:
        return False
    each_a_tuple = (size if isinstance(size, tuple) else (size,) for size in sizes)
    columns = list(zip(*each_a_tuple, strict=True))
    if layout.area == "product":
        longest = [rounded(max(column), layout.multiple) for column in columns]
        return len(sizes) * math.prod(longest) <= layout.budget
    tokens = padded_tokens if layout.kind == "padded" else packed_tokens
    taken = [tokens(column, layout.multiple) for column in columns]
    if layout.caps is not None:
        return all(each <= cap for each, cap in zip(taken, layout.caps, strict=True))
    return layout.budget is None or sum(taken) <= layout.budget


def through_json(state):
    text = json.dumps(state)
    assert len(text) < 8192
    return json.loads(text)
