"""Slow and obvious versions of what the library does: one sample at a time, in plain Python."""

import itertools
import math
from collections.abc import Callable, Sequence

from batchwright._keyed import PRIMES, hashed


def rounded(length: int, multiple: int) -> int:
    return math.ceil(length / multiple) * multiple


def padded_tokens(lengths: Sequence[int], multiple: int = 1) -> int:
    return len(lengths) * max(rounded(length, multiple) for length in lengths)


def packed_tokens(lengths: Sequence[int], multiple: int = 1) -> int:
    return sum(rounded(length, multiple) for length in lengths)


def rows_that_fit(
    length: int,
    max_tokens: int,
    max_samples: int | None,
    pad_to_multiple_of: int,
    batch_size_multiple_of: int,
) -> int:
    rows = max_tokens // rounded(length, pad_to_multiple_of)
    if max_samples is not None:
        rows = min(rows, max_samples)
    if rows >= batch_size_multiple_of:
        rows -= rows % batch_size_multiple_of
    return rows


def cut_sorted(lengths: Sequence[int], **limit: int | None) -> list[list[int]]:
    """Cut lengths, from the longest on, into batches as large as their first sample allows."""
    batches: list[list[int]] = []
    room = 0
    for length in sorted(lengths, reverse=True):
        if room == 0:
            batches.append([])
            room = rows_that_fit(length, **limit)
        batches[-1].append(length)
        room -= 1
    return batches


def cut_sequence(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Add samples to a batch until the next would exceed the budget."""
    batches: list[list[int]] = []
    for length in lengths:
        if batches and padded_tokens([*batches[-1], length]) <= max_tokens:
            batches[-1].append(length)
        else:
            batches.append([length])
    return batches


def next_fit(
    lengths: Sequence[int], capacity: int, max_samples: int | None = None
) -> list[list[int]]:
    rows: list[list[int]] = []
    for length in lengths:
        fits = rows and sum(rows[-1]) + length <= capacity
        if fits and (max_samples is None or len(rows[-1]) < max_samples):
            rows[-1].append(length)
        else:
            rows.append([length])
    return rows


def best_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Put each sample, longest first, into the fullest row that still holds it."""
    rows: list[list[int]] = []
    for length in sorted(lengths, reverse=True):
        open_rows = [row for row in rows if sum(row) + length <= capacity]
        if open_rows:
            max(open_rows, key=sum).append(length)
        else:
            rows.append([length])
    return rows


def pack_columns(
    samples: Sequence[tuple[int, ...]], capacities: tuple[int, ...], *, best_fit: bool
) -> list[list[tuple[int, ...]]]:
    """Put each sample, largest share of a row first, into the first or the fullest row for it."""
    shares = [1 / capacity for capacity in capacities]

    def size(sample: tuple[int, ...]) -> tuple[float, float]:
        taken = [length / cap for length, cap in zip(sample, capacities, strict=True)]
        return -sum(taken), -max(taken)

    def left(row: list[tuple[int, ...]], sample: tuple[int, ...]) -> list[int]:
        columns = zip(*row, sample, strict=True)
        return [cap - sum(column) for cap, column in zip(capacities, columns, strict=True)]

    rows: list[list[tuple[int, ...]]] = []
    for sample in sorted(samples, key=lambda each: (*size(each), each[::-1])):
        open_rows = [row for row in rows if min(left(row, sample)) >= 0]
        if not open_rows:
            rows.append([sample])
        elif best_fit:
            min(
                open_rows,
                key=lambda row: sum(
                    (free * share) ** 2
                    for free, share in zip(left(row, sample), shares, strict=True)
                ),
            ).append(sample)
        else:
            open_rows[0].append(sample)
    return rows


def next_fit_columns(
    samples: Sequence[tuple[int, ...]],
    capacities: tuple[int, ...],
    max_samples: int | None = None,
) -> list[list[tuple[int, ...]]]:
    rows: list[list[tuple[int, ...]]] = []
    for sample in samples:
        grown = [*rows[-1], sample] if rows else []
        fits = grown and all(
            sum(column) <= cap
            for column, cap in zip(zip(*grown, strict=True), capacities, strict=True)
        )
        if fits and (max_samples is None or len(grown) <= max_samples):
            rows[-1].append(sample)
        else:
            rows.append([sample])
    return rows


def fewest_rows(lengths: Sequence[int], capacity: int) -> int:
    """Find the least number of rows by trying everything: for a handful of samples."""
    best = len(lengths)

    def place(rest: tuple[int, ...], rows: tuple[int, ...]) -> None:
        nonlocal best
        if len(rows) >= best:
            return
        if not rest:
            best = len(rows)
            return
        for row, used in enumerate(rows):
            if used + rest[0] <= capacity:
                place(rest[1:], (*rows[:row], used + rest[0], *rows[row + 1 :]))
        place(rest[1:], (*rows, rest[0]))

    place(tuple(sorted(lengths, reverse=True)), ())
    return best


def fewest_batches(lengths: Sequence[int], max_tokens: int) -> int:
    """Find the least number of padded batches by trying everything."""
    best = len(lengths)

    def place(rest: tuple[int, ...], batches: tuple[tuple[int, ...], ...]) -> None:
        nonlocal best
        if len(batches) >= best:
            return
        if not rest:
            best = len(batches)
            return
        for number, batch in enumerate(batches):
            grown = (*batch, rest[0])
            if padded_tokens(grown) <= max_tokens:
                place(rest[1:], (*batches[:number], grown, *batches[number + 1 :]))
        place(rest[1:], (*batches, (rest[0],)))

    place(tuple(sorted(lengths, reverse=True)), ())
    return best


def dispersion(steps: Sequence[Sequence[int]]) -> float:
    """Variance of the updates' mean log-length, over that of random samples of as many tokens."""
    everything = [length for step in steps for length in step]
    if len(steps) == 1 or len(set(everything)) == 1:
        return 1.0
    most = 4 * sorted(everything, reverse=True)[max(1, len(everything) // 100)]
    steps = [[min(length, most) for length in step] for step in steps]
    everything = [length for step in steps for length in step]
    total = sum(everything)
    mean = sum(length * math.log(length) for length in everything) / total
    spread = sum(length**2 * (math.log(length) - mean) ** 2 for length in everything) / total
    seen = expected = 0.0
    for step in steps:
        tokens = sum(step)
        step_mean = sum(length * math.log(length) for length in step) / tokens
        seen += (step_mean - mean) ** 2
        expected += spread * (1 / tokens - 1 / total)
    return seen / expected


def imbalance(costs: Sequence[float], world_size: int, accumulate: int) -> float:
    """Slowest rank over the mean, summed over updates."""
    slowest = mean = 0.0
    update = world_size * accumulate
    for start in range(0, len(costs), update):
        ranks = [0.0] * world_size
        for place, cost in enumerate(costs[start : start + update]):
            ranks[place % world_size] += cost
        slowest += max(ranks)
        mean += sum(ranks) / world_size
    return slowest / mean


def least_guillotine_area(
    pairs: Sequence[tuple[int, int]], num_shapes: int, area: Callable[[int, int], float]
) -> float:
    """Cut one column into ranges and each range in the other, by trying everything."""
    best = math.inf
    for turned in (False, True):
        ordered = [pair[::-1] if turned else pair for pair in pairs]
        values = sorted({first for first, _ in ordered})
        for many in range(1, min(num_shapes, len(values)) + 1):
            for cuts in itertools.combinations(values[:-1], many - 1):
                edges = [*cuts, values[-1]]
                ranges = [
                    (high, [second for first, second in ordered if low < first <= high])
                    for low, high in itertools.pairwise([0, *edges])
                ]
                for shares in itertools.product(range(1, num_shapes + 1), repeat=many):
                    if sum(shares) <= num_shapes:
                        best = min(
                            best,
                            sum(
                                _least_area_of_range(*each, share, area, turned=turned)
                                for each, share in zip(ranges, shares, strict=True)
                            ),
                        )
    return best


def _least_area_of_range(
    longest: int,
    others: Sequence[int],
    num_shapes: int,
    area: Callable[[int, int], float],
    *,
    turned: bool,
) -> float:
    values = sorted(set(others))
    best = math.inf
    for cuts in itertools.combinations(values[:-1], min(num_shapes, len(values)) - 1):
        edges = [*cuts, values[-1]]
        padded = [min(edge for edge in edges if edge >= other) for other in others]
        shapes = [(each, longest) if turned else (longest, each) for each in padded]
        best = min(best, sum(area(*shape) for shape in shapes))
    return best


def shape_of(
    sample: Sequence[int],
    shapes: Sequence[tuple[int, tuple[int, ...]]],
    area: Callable[..., int],
) -> tuple[int, tuple[int, ...]]:
    """Find the shape with the most rows that holds a sample; among equals, the smallest."""
    holding = [
        (-rows, area(*lengths), lengths)
        for rows, lengths in shapes
        if all(a <= b for a, b in zip(sample, lengths, strict=True))
    ]
    rows, _, lengths = min(holding)
    return -rows, lengths


def duplicate_counts(
    samples: Sequence[object], lengths: Sequence[int], labels: Sequence[object]
) -> tuple[int, int, float, int]:
    """Count distinct samples, the most frequent one, tokens repeated, and labels surely wrong."""
    clusters: list[list[int]] = []
    for index, sample in enumerate(samples):
        for cluster in clusters:
            if samples[cluster[0]] == sample:
                cluster.append(index)
                break
        else:
            clusters.append([index])
    repeated = sum(lengths[index] for cluster in clusters for index in cluster[1:])
    wrong = 0
    for cluster in clusters:
        given = [labels[index] for index in cluster]
        wrong += len(given) - max(given.count(label) for label in given)
    return len(clusters), max(map(len, clusters)), repeated / sum(lengths), wrong


def variety(
    epochs: Sequence[Sequence[Sequence[int]]], lengths: Sequence[int], together: int
) -> list[float]:
    """Distinct mates of each sample ÷ those of a shuffle, from the longest sample to the shortest.

    Takes the batches of each epoch; those of `together` batches in a row count as mates. A sample
    that comes more than once in an epoch counts where it comes last.
    """
    ranked = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    ratios = []
    for sample in ranked:
        met: set[int] = set()
        missed = 1.0
        for batches in epochs:
            groups = [
                sum(batches[start : start + together], [])
                for start in range(0, len(batches), together)
            ]
            mine = [group for group in groups if sample in group]
            if mine:
                met |= set(mine[-1]) - {sample}
                missed *= 1 - min(1, (len(mine[-1]) - 1) / max(len(lengths) - 1, 1))
        expected = (len(lengths) - 1) * (1 - missed)
        ratios.append(len(met) / expected if expected else 1.0)
    return ratios


def spread(
    stretches: Sequence[tuple[int, int, int, int]],
    key: int,
    runs: Sequence[tuple[int, int]] | None = None,
) -> list[list[tuple[int, int]]]:
    """Spread sorted samples over batches, a stretch and a round at a time.

    Takes the start, samples, first batch and batches of each stretch; and the first sample and the
    samples of its run, inside which they move, if they do. Returns for each batch the positions
    that it gets, each with its stretch.
    """

    def affine(number: int, entry: int, size: int) -> int:
        bits = hashed(number, key)
        return (int(PRIMES[bits >> 58]) * entry + (((bits & 0xFFFFFFFF) * size) >> 32)) % size

    batches: list[list[tuple[int, int]]] = [
        [] for _ in range(max(first + many for _, _, first, many in stretches))
    ]
    number = 0
    for stretch, (start, samples, first, many) in enumerate(stretches):
        for begin in range(0, samples, many):
            for batch in range(many):
                entry = begin + affine(number, batch, many)
                if entry >= samples:
                    continue
                position = start + entry
                if runs is not None:
                    low, size = runs[stretch]
                    position = low + affine(2**64 - 1 - low, position - low, size)
                batches[first + batch].append((stretch, position))
            number += 1
    return batches


def front_and_back(samples: Sequence[int]) -> list[int]:
    """Put samples at the front and the back of a row in turn, from the ends to the middle."""
    return [*samples[::2], *samples[1::2][::-1]]


def broken(
    batches: Sequence[Sequence[int]],
    *,
    within: Sequence[object] | None = None,
    unique: Sequence[object] | None = None,
    together: Sequence[object] | None = None,
) -> list[str]:
    """Say which constraints some batches do not keep; -1 is no key, and no group."""
    found = []
    for number, batch in enumerate(batches):
        if within is not None and len({within[sample] for sample in batch}) > 1:
            found.append(f"batch {number} is of several groups")
        if unique is not None:
            for one, other in itertools.combinations(batch, 2):
                mates = together is not None and together[one] == together[other] != -1
                if unique[one] == unique[other] != -1 and not mates:
                    found.append(f"batch {number} has {one} and {other} of one key")
    if together is not None:
        everything = {sample for batch in batches for sample in batch}
        for group in set(together) - {-1}:
            members = {s for s in range(len(together)) if together[s] == group} & everything
            # Whole wherever it is: a repeated group comes once more, as a whole.
            found += [
                f"group {group} is split"
                for batch in batches
                if members & set(batch) and not members <= set(batch)
            ]
    return found


def budgets(
    lengths: Sequence[int], batch_size: int | None, max_tokens: int | None
) -> tuple[int, int, int]:
    """A budget, tokens an update, and a batch size; outliers do not decide them."""
    longest_first = sorted(lengths, reverse=True)
    size = len(lengths)
    p99 = longest_first[0 if size == 1 else max(1, size // 100)]
    usual = min(longest_first[size // 1000], 4 * p99)
    if max_tokens is None:
        max_tokens = min(8 * usual, sum(min(each, usual) for each in lengths) // 50)
        max_tokens = max(usual, max_tokens)
        if batch_size is not None:
            max_tokens = min(batch_size, size) * usual
    if batch_size is None:
        batch_size = max(1, max_tokens // usual)
    return max_tokens, max(1, round(sum(lengths) / math.ceil(size / batch_size))), batch_size


def most_open(batches: Sequence[set[int]]) -> int:
    """Count the shards that are open at a time, each from its first batch to its last."""
    first = {shard: number for number, batch in reversed([*enumerate(batches)]) for shard in batch}
    last = {shard: number for number, batch in enumerate(batches) for shard in batch}
    return max(
        (
            sum(first[shard] <= number <= last[shard] for shard in first)
            for number in range(len(batches))
        ),
        default=0,
    )
