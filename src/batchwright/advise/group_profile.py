"""Sources, languages or speakers: how many there are, and what each is a share of."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from batchwright.advise.encoding import encode
from batchwright.errors import ScoresError
from batchwright.lengths import as_lengths, totals
from batchwright.order import Mixture
from batchwright.typing import IntoLengths

MOST_GROUPS = 10
"""Groups that are told one by one."""

_LONGEST_NAME = 60

TEMPERATURE = 5.0
"""Of the mixture that shares are told of: what the source below used for a hundred languages."""


@dataclass(frozen=True)
class Group:
    """A group of samples.

    Attributes:
        name: What its samples have in the column, the first 60 characters of it.
        num_samples: How many there are.
        share: Of all samples.
        token_share: Of all tokens.
        mean_length: Tokens of a sample.
        tempered_share: Of the draws of ``Mixture(temperature=5)``.
        tempered_epochs: How often each of its samples is drawn in an epoch of that.
    """

    name: str
    num_samples: int
    share: float
    token_share: float
    mean_length: float
    tempered_share: float
    tempered_epochs: float


@dataclass(frozen=True)
class GroupProfile:
    """What is known of the groups.

    Attributes:
        num_samples: How many samples there are.
        num_groups: How many groups.
        effective_groups: Groups of equal size that would have the same entropy.
        largest: The ten largest, the largest first.
        smallest: The smallest.
        temperature: That tempered shares are of.
    """

    num_samples: int
    num_groups: int
    effective_groups: float
    largest: tuple[Group, ...]
    smallest: Group
    temperature: float


def profile_groups(groups: Any, lengths: IntoLengths) -> GroupProfile:
    """Look at the groups that samples come from.

    Args:
        groups: [n], the group of each sample: integers or names.
        lengths: integer[n] or integer[n, k], tokens.

    Returns:
        The profile.

    Raises:
        ScoresError: If groups are not one for each sample, or each sample is a group.
        LengthsError: If lengths are no positive whole numbers.

    Complexity:
        O(n log n); a second or two for 10⁷ samples.

    Source:
        Temperature: Arivazhagan et al., *Massively Multilingual Neural Machine Translation in the
        Wild*, 2019, arXiv:1907.05019.

    Example:
        >>> profile = profile_groups(["de"] * 3 + ["ko"], [10, 10, 10, 30])
        >>> [(each.name, each.share, each.token_share) for each in profile.largest]
        [('de', 0.75, 0.5), ('ko', 0.25, 0.5)]
    """
    encoding = encode(groups, "groups")
    sizes = totals(as_lengths(lengths, columns=True)).astype(np.float64)
    if encoding.codes.size != sizes.size:
        raise ScoresError(
            f"groups are {encoding.codes.size:,} for {sizes.size:,} samples: expected one each."
        )
    counts = encoding.counts
    if sizes.size > 1 and counts.size == sizes.size:
        raise ScoresError(
            f"groups hold {counts.size:,} distinct values for {sizes.size:,} samples: these are no "
            "groups. Name the column of sources, languages or speakers."
        )
    tokens = np.bincount(encoding.codes, weights=sizes)
    # Over codes, not over names: what groups are called makes no difference.
    tempered = Mixture(encoding.codes, temperature=TEMPERATURE).shares(0.0)
    shares = counts / counts.sum()

    def group(code: int) -> Group:
        return Group(
            name=str(encoding.values[code])[:_LONGEST_NAME],
            num_samples=int(counts[code]),
            share=float(shares[code]),
            token_share=float(tokens[code] / tokens.sum()),
            mean_length=float(tokens[code] / counts[code]),
            tempered_share=float(tempered[code]),
            tempered_epochs=float(tempered[code] * counts.sum() / counts[code]),
        )

    names = np.array([str(value) for value in encoding.values])
    ordered = np.lexsort((names, -counts)).tolist()
    return GroupProfile(
        num_samples=sizes.size,
        num_groups=counts.size,
        effective_groups=float(np.exp(-(shares * np.log(shares)).sum())),
        largest=tuple(group(code) for code in ordered[:MOST_GROUPS]),
        smallest=group(ordered[-1]),
        temperature=TEMPERATURE,
    )
