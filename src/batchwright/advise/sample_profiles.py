"""What is known of samples beyond their lengths: labels, groups and duplicates."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from batchwright.advise.duplicates import (
    Duplicates,
    Encoding,
    check_one_for_each,
    encode,
    profile_duplicates,
)
from batchwright.advise.noise_estimate import FEWEST_SAMPLES, NoiseEstimate, estimate_noise
from batchwright.errors import LengthsError, MissingExtraError
from batchwright.lengths import as_lengths, totals
from batchwright.order import Mixture
from batchwright.typing import FloatArray, IntoLengths

if TYPE_CHECKING:
    from batchwright.compare import Task

MOST_GROUPS = 10
"""Groups that are listed."""

TEMPERATURE = 5.0
"""Temperature of the mixture: what the source used for a hundred languages."""

_LONGEST_NAME = 60
_FEW_VALUES = 20  # so many distinct values may always be classes, such as half stars


@dataclass(frozen=True)
class LabelProfile:
    """What is known of the labels."""

    num_samples: int
    num_classes: int
    largest: int  # samples of the largest class
    smallest: int  # samples of the smallest
    imbalance: float  # `largest` over `smallest`
    effective_classes: float  # classes of equal size that would have the same entropy
    noise: NoiseEstimate | None  # how many labels are wrong. None: unknown
    noise_unknown: str  # why that is unknown; empty if it is not


@dataclass(frozen=True)
class Group:
    """A group of samples."""

    name: str  # its value in the column, the first 60 characters of it
    num_samples: int
    share: float  # of all samples
    token_share: float  # of all tokens
    mean_length: float  # tokens of a sample
    tempered_share: float  # of the draws of ``Mixture(temperature=5)``
    tempered_epochs: float  # how often each of its samples is drawn in an epoch of that


@dataclass(frozen=True)
class GroupProfile:
    """What is known of the groups."""

    num_samples: int
    num_groups: int
    effective_groups: float  # groups of equal size that would have the same entropy
    largest: tuple[Group, ...]  # the ten largest, the largest first
    smallest: Group
    temperature: float  # of the tempered shares


class SampleProfiles(TypedDict):
    """Fields of `Evidence`; None where nothing is known."""

    labels: LabelProfile | None
    duplicates: Duplicates | None
    groups: GroupProfile | None


def profile_samples(
    lengths: IntoLengths,
    *,
    labels: Any = None,
    groups: Any = None,
    samples: Any = None,
    features: Any = None,
    seed: int = 0,
    watch: Callable[[str, float], None] = lambda *_: None,
) -> SampleProfiles:
    """Profile everything that is given.

    See `profile_labels` for labels and features, `profile_groups` for groups, and
    `profile_duplicates` for samples. `watch` is called with the name of each step.

    Raises:
        LengthsError: If labels are not classes, or a column has not one value for each sample.

    Example:
        >>> found = profile_samples([1, 2, 2], samples=["a", "b c", "b c"])
        >>> found["duplicates"].num_repeated, found["labels"]
        (1, None)
    """
    found = SampleProfiles(labels=None, duplicates=None, groups=None)
    if groups is not None:
        found["groups"] = profile_groups(groups, lengths)
    if samples is not None:
        watch("looking for duplicates", 0.0)
        found["duplicates"] = profile_duplicates(samples, lengths=lengths, labels=labels)
    if labels is not None:
        watch("looking at labels", 0.0)
        found["labels"] = profile_labels(labels, features=features, seed=seed)
    return found


def profile_task_samples(
    task: Task, *, seed: int = 0, watch: Callable[[str, float], None] = lambda *_: None
) -> SampleProfiles:
    """Profile the samples, labels and groups of a task; half a minute at most.

    Samples that cannot be compared, such as objects of your own class, have no profile.

    Raises:
        LengthsError: If its labels are not classes, or its groups not groups.
    """
    found = profile_samples(
        task.sizes,
        labels=task.labels,
        groups=task.groups,
        features=task.features,
        seed=seed,
        watch=watch,
    )
    watch("looking for duplicates", 0.0)
    with suppress(LengthsError):  # labels and lengths are known to fit
        found["duplicates"] = profile_duplicates(
            task.samples, lengths=task.sizes, labels=task.labels
        )
    return found


def profile_labels(labels: Any, *, features: Any = None, seed: int = 0) -> LabelProfile:
    """Count classes, and estimate how many labels are wrong.

    Args:
        labels: [n], the class of each sample: integers or names.
        features: Numbers of each sample, float[n, ...], or n texts, or a function that returns
            them. None: label noise is not estimated.
        seed: Of the random part that noise is estimated from.

    Returns:
        The profile. Counting takes a second for 10⁷ labels, the estimate some seconds.

    Raises:
        LengthsError: If labels are not classes (continuous targets, or nearly one per sample), if
            one is missing, or if features do not fit.

    Source:
        The effective number is the exponential of the entropy: Hill, *Diversity and Evenness*,
        1973.

    Example:
        >>> profile = profile_labels(["cat"] * 30 + ["dog"] * 10)
        >>> profile.num_classes, profile.imbalance, round(profile.effective_classes, 2)
        (2, 3.0, 1.75)
    """
    encoding = encode(labels, "labels")
    _check_classes(encoding)
    counts = encoding.counts
    noise, unknown = _noise(encoding, features, seed)
    return LabelProfile(
        num_samples=encoding.codes.size,
        num_classes=counts.size,
        largest=int(counts.max()),
        smallest=int(counts.min()),
        imbalance=float(counts.max() / counts.min()),
        effective_classes=_effective_number(counts / counts.sum()),
        noise=noise,
        noise_unknown=unknown,
    )


def profile_groups(groups: Any, lengths: IntoLengths) -> GroupProfile:
    """Compute the shares of the groups that samples come from.

    Takes a second or two for 10⁷ samples.

    Args:
        groups: [n], the group of each sample: integers or names.
        lengths: integer[n] or integer[n, k], tokens.

    Raises:
        LengthsError: If there is not one group for each sample, or each sample is its own group.
        LengthsError: If lengths are not positive integers.

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
    check_one_for_each("groups", encoding.codes.size, sizes.size)
    counts = encoding.counts
    if sizes.size > 1 and counts.size == sizes.size:
        raise LengthsError(
            f"groups hold {counts.size:,} distinct values for {sizes.size:,} samples: these are "
            "not groups. Name the column of sources, languages or speakers."
        )
    tokens = np.bincount(encoding.codes, weights=sizes)
    # Over codes, not over names: the names of groups make no difference.
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
            tempered_epochs=float(tempered[code] / shares[code]),
        )

    names = np.array([str(value) for value in encoding.values])
    ordered = np.lexsort((names, -counts)).tolist()
    return GroupProfile(
        num_samples=sizes.size,
        num_groups=counts.size,
        effective_groups=_effective_number(shares),
        largest=tuple(group(code) for code in ordered[:MOST_GROUPS]),
        smallest=group(ordered[-1]),
        temperature=TEMPERATURE,
    )


def _effective_number(shares: FloatArray) -> float:
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _noise(encoding: Encoding, features: Any, seed: int) -> tuple[NoiseEstimate | None, str]:
    """Return the estimate, or why there is none."""
    if len(encoding.values) < 2:
        return None, "there is one class only"
    if features is None:
        return None, "no features or texts were given to predict labels from"
    if encoding.codes.size < FEWEST_SAMPLES:
        return (
            None,
            f"{encoding.codes.size} samples are too few; an estimate needs {FEWEST_SAMPLES}",
        )
    try:
        given = features() if callable(features) else features
        return estimate_noise(given, encoding.codes, len(encoding.values), seed=seed), ""
    except MissingExtraError as error:
        return None, str(error).rstrip(".")


def _check_classes(encoding: Encoding) -> None:
    size, values = encoding.codes.size, encoding.values
    if not size:
        raise LengthsError("labels are empty: expected a class for each sample.")
    if "" in values:
        index = int(np.argmax(encoding.codes == values.index("")))
        raise LengthsError(f"labels[{index}] is empty: fill it, or leave the sample out.")
    if len(values) > _FEW_VALUES and any(map(_has_fraction, values)):
        raise LengthsError(
            f"labels hold {len(values):,} distinct numbers with fractions: these are continuous "
            "targets, not class labels. Leave them out."
        )
    if len(values) > max(_FEW_VALUES, size / 2):
        raise LengthsError(
            f"labels hold {len(values):,} distinct values for {size:,} samples: these are not "
            "class labels. Leave them out, or name the column of the classes."
        )


def _has_fraction(value: Any) -> bool:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return False
    return np.isfinite(number) and not number.is_integer()
