"""Draw length profiles with outliers: budgets keep their bounds, and figures agree.

Usage: python -m tests.stress.profiles [--profiles 5000] [--seed 0]

A profile has 50 to 10⁵ lengths of one of several distributions, and outliers of up to 10⁴ × its
median in 0 to 1 % of the samples. Of each, the suggested budget is at most 8 × p99.9, and at most
2 % of all tokens wherever these are enough for one usual sample; and `profile_data` gives finite
figures that agree with the lengths and with one another. Ctrl-C prints what was seen so far.

`random_profile(seed)` is the profile of a seed, for other checks.
"""

import argparse
import json
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np

from batchwright.advise import DataProfile, profile_data
from batchwright.budgets import PARTS, ROWS, suggest

FEWEST, MOST = 50, 10**5
LARGEST_SHARE, LARGEST_FACTOR = 0.01, 1e4


@dataclass(frozen=True)
class LengthProfile:
    """Lengths, and how they were drawn."""

    seed: int
    kind: str  # the name of the distribution
    lengths: np.ndarray  # int64[n]
    outliers: np.ndarray  # int64[k], the indices of those that were made longer, rising


def _lognormal(rng, size):
    return rng.lognormal(rng.uniform(1, 7), rng.uniform(0.1, 1.5), size)


def _two_groups(rng, size):
    short, long = np.sort(rng.integers(1, 3_000, 2))
    means = np.where(rng.random(size) < rng.random(), short, long)
    return rng.normal(means, 1 + means / 10)


def _clipped(rng, size):
    limit = int(rng.choice([128, 512, 2_048]))
    return np.minimum(rng.lognormal(np.log(limit) - 0.5, 1.0, size), limit)


KINDS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "lognormal": _lognormal,
    "uniform": lambda rng, size: rng.uniform(1, rng.integers(2, 5_000), size),
    "normal": lambda rng, size: rng.normal(rng.uniform(5, 800), rng.uniform(0.1, 100), size),
    "exponential": lambda rng, size: rng.exponential(rng.uniform(1, 500), size),
    "power law": lambda rng, size: 1 + 10 * rng.pareto(rng.uniform(1.1, 3), size),
    "geometric": lambda rng, size: rng.geometric(rng.uniform(0.002, 0.5), size),
    "two groups": _two_groups,
    "cut at a limit": _clipped,
    "a few values": lambda rng, size: rng.choice(rng.integers(1, 2_000, 4), size),
    "equal": lambda rng, size: np.full(size, rng.integers(1, 2_000)),
}
"""Name of a distribution → what draws lengths, float[n], of it."""


def random_profile(seed: int, *, most: int = MOST) -> LengthProfile:
    """Draw the lengths of a profile, the same ones for a seed; two of three have outliers."""
    rng = np.random.default_rng([seed, 18])
    size = round(np.exp(rng.uniform(np.log(FEWEST), np.log(max(FEWEST, most)))))
    kind = str(rng.choice(list(KINDS)))
    lengths = np.clip(np.rint(KINDS[kind](rng, size)), 1, 10**6).astype(np.int64)
    share = rng.uniform(0, LARGEST_SHARE) if rng.random() < 2 / 3 else 0.0
    outliers = np.sort(rng.choice(size, int(share * size), replace=False))
    factors = np.exp(rng.uniform(0, np.log(LARGEST_FACTOR), outliers.size))
    long = np.rint(factors * np.median(lengths)).astype(np.int64)
    lengths[outliers] = np.maximum(lengths[outliers], long)
    return LengthProfile(seed, kind, lengths, outliers)


class WrongProfileError(AssertionError):
    """A bound that was not kept, or figures that do not agree."""


def check_profile(profile: LengthProfile) -> str:
    """Check the suggested budget of a profile, and what `profile_data` says of it.

    Returns:
        What was seen.

    Raises:
        WrongProfileError: If a bound was not kept, or figures do not agree.
    """
    check_budget(profile.lengths)
    rng = np.random.default_rng([profile.seed, 19])
    options = {
        "max_tokens": int(rng.integers(1, 4 * np.quantile(profile.lengths, 0.99) + 2)),
        "batch_size": int(rng.integers(1, 65)),
        "oversize": str(rng.choice(["truncate", "drop"])),
    }
    chosen = {name: each for name, each in options.items() if rng.random() < 0.4}
    if chosen.get("max_tokens", profile.lengths.max()) < profile.lengths.min():
        chosen.pop("oversize", None)  # nothing would be left
    found = profile_data(profile.lengths, **chosen)
    check_figures(found, profile.lengths, **chosen)
    return "outliers" if found.outliers is not None else "none longer than the budget"


def check_budget(lengths: np.ndarray) -> None:
    """Check the suggested budget.

    Raises:
        WrongProfileError: If it is above its bounds.
    """
    budgets = suggest(lengths)
    p999 = np.sort(lengths)[::-1][lengths.size // 1000]
    if not 1 <= budgets.max_tokens <= ROWS * p999:
        raise WrongProfileError(f"max_tokens={budgets.max_tokens}, and p99.9 is {p999}")
    usual = np.minimum(lengths, budgets.usual).sum()
    if usual >= PARTS * budgets.usual and PARTS * budgets.max_tokens > lengths.sum():
        raise WrongProfileError(f"max_tokens={budgets.max_tokens} of {lengths.sum()} tokens")


def check_figures(
    found: DataProfile,
    lengths: np.ndarray,
    *,
    max_tokens: int | None = None,
    batch_size: int | None = None,
    oversize: str | None = None,
) -> None:
    """Check that figures are finite, and those of the lengths.

    Raises:
        WrongProfileError: If they are not.
    """
    json.dumps(asdict(found), allow_nan=False)
    longer = int(np.count_nonzero(lengths > found.max_tokens))
    outliers = found.outliers
    facts = {
        "samples": (found.num_samples, lengths.size),
        "tokens": (found.num_tokens, lengths.sum()),
        "longest": (found.longest, lengths.max()),
        "p999": (found.p999, np.sort(lengths)[::-1][lengths.size // 1000]),
        "given": (found.is_given, max_tokens is not None),
        "budget": (found.max_tokens, max_tokens or found.max_tokens),
        "batch size": (found.batch_size, batch_size or found.batch_size),
        "longer": (0 if outliers is None else outliers.num_samples, longer),
        "in the histogram": (sum(found.histogram.counts), lengths.size),
    }
    if outliers is not None:
        facts["longest row"] = (lengths[outliers.longest_row], lengths.max())
        facts["policy"] = (outliers.oversize, oversize or "truncate")
    for name, (said, expected) in facts.items():
        if said != expected:
            raise WrongProfileError(f"{name}: {said}, expected {expected}")
    if not all(0 < each <= 1 for each in found.efficiency.values()):
        raise WrongProfileError(f"efficiency: {found.efficiency}")
    if missing := {"plain", "grouped", "planned", "packed"} - set(found.efficiency):
        raise WrongProfileError(f"no efficiency of {missing}")
    if not all(0 < each.efficiency <= 1 for each in found.dial):
        raise WrongProfileError("efficiency of the dial")
    if bool(found.about_outliers()) != bool(longer):
        raise WrongProfileError(f"said of {longer} outliers: {found.about_outliers()!r}")


def run(
    profiles: int,
    first: int,
    *,
    check: Callable[[LengthProfile], str] = check_profile,
    draw: Callable[[int], LengthProfile] = random_profile,
    say: Callable[[str], None] = print,
    name: str = "profiles",
) -> int | None:
    """Check profiles; return the seed of the first that is wrong, None if there is none."""
    seen: Counter[str] = Counter()
    began, failed = time.monotonic(), None
    try:
        for number in range(profiles):
            seed = first + number
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    seen[check(draw(seed))] += 1
            except Exception as error:  # noqa: BLE001 (a raw error is a finding)
                seen["wrong"] += 1
                say(f"seed {seed}: {type(error).__name__}: {error}")
                failed = seed if failed is None else failed
            if number % 500 == 499:
                say(f"{number + 1} of {profiles}, {time.monotonic() - began:.0f} s: {dict(seen)}")
    except KeyboardInterrupt:
        say("interrupted")
    say(f"{sum(seen.values())} profiles: {dict(seen)}")
    if failed is not None:
        say(f"see it again: python -m tests.stress.{name} --profiles 1 --seed {failed}")
    return failed


def main() -> int:
    """Read the arguments, and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profiles", type=int, default=5_000, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="of the first")
    parser.add_argument("--most", type=int, default=MOST, help="samples of a profile")
    given = parser.parse_args()
    draw = partial(random_profile, most=given.most)
    return 0 if run(given.profiles, given.seed, draw=draw) is None else 1


if __name__ == "__main__":
    sys.exit(main())
