"""What is known of samples beyond their lengths: labels, groups and duplicates."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypedDict

import numpy as np

from batchwright._format import items_that_are
from batchwright.advise.duplicates import (
    Column,
    Duplicates,
    check_one_for_each,
    encode,
    profile_duplicates,
)
from batchwright.advise.noise_estimate import (
    FEWEST_SAMPLES,
    NoiseEstimate,
    as_estimate,
    estimate_noise,
)
from batchwright.advise.noise_sources import NoiseSource
from batchwright.errors import LengthsError, MissingExtraError
from batchwright.lengths import as_lengths, totals
from batchwright.order import Mixture
from batchwright.typing import FloatArray, IntoLengths

MOST_GROUPS = 10
"""Groups that are listed, at most."""

TEMPERATURE = 5.0
"""Temperature of the mixture, as the source used it for a hundred languages."""

_NARROW = 0.1  # a width of the noise's interval that is good enough
_LONGEST_NAME = 60
_FEW_VALUES = 20  # up to so many distinct values may be classes, such as half stars


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
    labels: Column = None,
    groups: Column = None,
    samples: Column = None,
    features: Column = None,
    seed: int = 0,
    watch: Callable[[str, float], None] = lambda *_: None,
) -> SampleProfiles:
    """Profile everything that is given, in at most half a minute.

    See `profile_labels` for labels and features, `profile_groups` for groups, and
    `profile_duplicates` for samples. Samples that cannot be compared, such as objects of your own
    class, have no profile. `watch` is called with the name of each step.

    Raises:
        LengthsError: If labels are not classes, or a column does not have one value per sample.

    Example:
        >>> found = profile_samples([1, 2, 2], samples=["a", "b c", "b c"])
        >>> found["duplicates"].num_repeated, found["labels"]
        (1, None)
    """
    sizes = as_lengths(lengths, columns=True)
    for name, given in (("labels", labels), ("samples", samples)):
        if given is not None:
            check_one_for_each(name, given, len(sizes))
    found = SampleProfiles(labels=None, duplicates=None, groups=None)
    if groups is not None:
        found["groups"] = profile_groups(groups, sizes)
    if samples is not None:
        watch("looking for duplicates", 0.0)
        with suppress(LengthsError):  # all else was checked
            found["duplicates"] = profile_duplicates(samples, lengths=sizes, labels=labels)
    if labels is not None:
        watch("looking at labels", 0.0)
        equal = found["duplicates"] and found["duplicates"].noise
        sources = [equal] if equal else []
        found["labels"] = profile_labels(labels, features=features, sources=sources, seed=seed)
    return found


def profile_labels(
    labels: Column,
    *,
    features: Column = None,
    sources: Sequence[NoiseSource] = (),
    seed: int = 0,
) -> LabelProfile:
    """Count classes, and estimate how many labels are wrong.

    Counting takes a second for 10⁷ labels, the estimate some seconds.

    Args:
        labels: [n], the class of each sample: integers or names.
        features: Numbers of each sample, float[n, ...], or n texts, or a function that returns
            them. None: label noise is estimated from the other sources only.
        sources: Other sources on label noise: `Duplicates.noise` of `profile_duplicates`.
        seed: Of the random part that noise is estimated from.

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
    codes, values = encode(labels, "labels")
    size, num_classes = codes.size, len(values)
    if not size:
        raise LengthsError("labels are empty: expected a class for each sample.")
    if "" in values:
        is_empty = codes == values.index("")
        index, count = int(np.argmax(is_empty)), int(np.count_nonzero(is_empty))
        said = items_that_are("empty", count, size, "labels", index)
        raise LengthsError(f"{said}: fill what is empty, or leave such samples out.")
    is_continuous = num_classes > _FEW_VALUES and any(map(_has_fraction, values))
    if is_continuous or num_classes > max(_FEW_VALUES, size / 2):
        raise LengthsError(
            f"labels hold {num_classes:,} distinct values for {size:,} samples"
            f"{', with fractions' if is_continuous else ''}: these are not class labels. Leave "
            "them out, or name the column of the classes."
        )
    counts = np.bincount(codes)
    noise, unknown = None, ""
    if num_classes < 2:
        unknown = "there is one class only"
    else:
        if features is None:
            unknown = "no features or texts were given to predict labels from"
        elif size < FEWEST_SAMPLES:
            unknown = f"an estimate needs {FEWEST_SAMPLES} samples, not {size}"
        given = None if unknown else features() if callable(features) else features
        try:
            noise = estimate_noise(codes, num_classes, features=given, others=sources, seed=seed)
        except MissingExtraError as error:
            unknown = str(error).rstrip(".")
            noise = estimate_noise(codes, num_classes, others=sources, seed=seed)
        if noise is not None and unknown and not noise.is_trusted:
            noise = None
    return LabelProfile(
        num_samples=size,
        num_classes=num_classes,
        largest=int(counts.max()),
        smallest=int(counts.min()),
        imbalance=float(counts.max() / counts.min()),
        effective_classes=_effective_number(counts / size),
        noise=noise,
        noise_unknown="" if noise else unknown,
    )


def is_uncertain(labels: LabelProfile) -> bool:
    """Return whether another source could make the estimate of wrong labels better."""
    noise = labels.noise
    is_known = noise is not None and noise.is_trusted and noise.high - noise.low <= _NARROW
    return labels.num_classes > 1 and not is_known


def with_source(
    labels: LabelProfile, source: NoiseSource, duplicates: Duplicates | None
) -> LabelProfile:
    """Return the profile of labels with one more source on their noise."""
    known = [] if labels.noise is None else list(labels.noise.sources)
    names = [each.name for each in known]
    if duplicates is not None and duplicates.noise is not None and "duplicates" not in names:
        known.append(duplicates.noise)
    noise = as_estimate([*known, source], labels.largest / labels.num_samples)
    return replace(labels, noise=noise, noise_unknown="")


def profile_groups(groups: Column, lengths: IntoLengths) -> GroupProfile:
    """Compute the shares of the groups that samples come from: integers or names, [n].

    Raises:
        LengthsError: If there is not one group for each sample, or each sample is its own group.

    Source:
        Temperature: Arivazhagan et al., *Massively Multilingual Neural Machine Translation in the
        Wild*, 2019, arXiv:1907.05019.

    Example:
        >>> profile = profile_groups(["de"] * 3 + ["ko"], [10, 10, 10, 30])
        >>> [(each.name, each.share, each.token_share) for each in profile.largest]
        [('de', 0.75, 0.5), ('ko', 0.25, 0.5)]
    """
    codes, values = encode(groups, "groups")
    names = [str(value) for value in values]
    sizes = totals(as_lengths(lengths, columns=True)).astype(np.float64)
    check_one_for_each("groups", codes, sizes.size)
    if 1 < sizes.size == len(names):
        raise LengthsError(
            f"groups hold {len(names):,} distinct values for {sizes.size:,} samples: these are "
            "not groups. Name the column of sources, languages or speakers."
        )
    counts, tokens = np.bincount(codes), np.bincount(codes, weights=sizes)
    shares = counts / sizes.size
    tempered = Mixture(codes, temperature=TEMPERATURE).shares(0.0)
    ordered = sorted(range(len(names)), key=lambda code: (-counts[code], names[code]))
    listed = [
        Group(
            name=names[code][:_LONGEST_NAME],
            num_samples=int(counts[code]),
            share=float(shares[code]),
            token_share=float(tokens[code] / tokens.sum()),
            mean_length=float(tokens[code] / counts[code]),
            tempered_share=float(tempered[code]),
            tempered_epochs=float(tempered[code] / shares[code]),
        )
        for code in [*ordered[:MOST_GROUPS], ordered[-1]]
    ]
    return GroupProfile(
        num_samples=sizes.size,
        num_groups=len(names),
        effective_groups=_effective_number(shares),
        largest=tuple(listed[:-1]),
        smallest=listed[-1],
        temperature=TEMPERATURE,
    )


def _effective_number(shares: FloatArray) -> float:
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _has_fraction(value: object) -> bool:
    try:
        number = float(value)  # type: ignore[arg-type]  # others raise
    except (TypeError, ValueError):
        return False
    return np.isfinite(number) and not number.is_integer()
