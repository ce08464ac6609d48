"""What labels tell: how many classes there are, how uneven, and how many labels may be wrong."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from batchwright.advise.encoding import Encoding, encode
from batchwright.advise.noise_estimate import FEWEST_SAMPLES, NoiseEstimate, estimate_noise
from batchwright.errors import MissingExtraError, ScoresError

_FEW_VALUES = 20
"""So many distinct values may always be classes: half stars, or a class for each of few samples."""


@dataclass(frozen=True)
class LabelProfile:
    """What is known of the labels.

    Attributes:
        num_samples: How many there are.
        num_classes: How many classes.
        largest: Samples of the largest class.
        smallest: Samples of the smallest.
        imbalance: `largest` over `smallest`.
        effective_classes: Classes of equal size that would have the same entropy.
        noise: How many labels are wrong. None: unknown.
        noise_unknown: Why that is unknown; empty if it is not.
    """

    num_samples: int
    num_classes: int
    largest: int
    smallest: int
    imbalance: float
    effective_classes: float
    noise: NoiseEstimate | None
    noise_unknown: str


def profile_labels(labels: Any, *, features: Any = None, seed: int = 0) -> LabelProfile:
    """Look at labels, and with features estimate how many are wrong.

    Args:
        labels: [n], the class of each sample: integers or names.
        features: Numbers of each sample, float[n, ...], or n texts, or a function that returns
            them. None: label noise is not looked at.
        seed: Of the part that noise is estimated from.

    Returns:
        The profile. Counting takes a second for 10⁷ labels, the estimate some seconds.

    Raises:
        ScoresError: If labels are no classes: continuous targets, or one for nearly each sample;
            if one is missing; if features do not fit.

    Source:
        The effective number is the exponential of the entropy: Hill, *Diversity and Evenness*,
        1973; noise: see `estimate_noise`.

    Example:
        >>> profile = profile_labels(["cat"] * 30 + ["dog"] * 10)
        >>> profile.num_classes, profile.imbalance, round(profile.effective_classes, 2)
        (2, 3.0, 1.75)
    """
    encoding = encode(labels, "labels")
    _check_classes(encoding)
    counts = encoding.counts
    shares = counts / counts.sum()
    noise, unknown = _noise(encoding, features, seed)
    return LabelProfile(
        num_samples=encoding.codes.size,
        num_classes=counts.size,
        largest=int(counts.max()),
        smallest=int(counts.min()),
        imbalance=float(counts.max() / counts.min()),
        effective_classes=float(np.exp(-(shares * np.log(shares)).sum())),
        noise=noise,
        noise_unknown=unknown,
    )


def _noise(encoding: Encoding, features: Any, seed: int) -> tuple[NoiseEstimate | None, str]:
    if len(encoding.values) < 2:
        return None, "there is one class only"
    if features is None:
        return None, "no features or texts to tell labels from"
    if encoding.codes.size < FEWEST_SAMPLES:
        return None, f"{encoding.codes.size} samples are too few, {FEWEST_SAMPLES} would do"
    try:
        given = features() if callable(features) else features
        return estimate_noise(given, encoding.codes, len(encoding.values), seed=seed), ""
    except MissingExtraError as error:
        return None, str(error).rstrip(".")


def _check_classes(encoding: Encoding) -> None:
    size, values = encoding.codes.size, encoding.values
    if not size:
        raise ScoresError("labels are empty: expected a class for each sample.")
    if "" in values:
        index = int(np.argmax(encoding.codes == values.index("")))
        raise ScoresError(f"labels[{index}] is empty: fill it, or leave the sample out.")
    if len(values) > _FEW_VALUES and any(map(_has_fraction, values)):
        raise ScoresError(
            f"labels hold {len(values):,} distinct numbers with fractions: these are continuous "
            "targets, not class labels. Leave them out."
        )
    if len(values) > max(_FEW_VALUES, size / 2):
        raise ScoresError(
            f"labels hold {len(values):,} distinct values for {size:,} samples: these are not "
            "class labels. Leave them out, or name the column of the classes."
        )


def _has_fraction(value: Any) -> bool:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return False
    return np.isfinite(number) and not number.is_integer()
