"""Where training stands, and the arithmetic that pacing functions share."""

import numpy as np
import numpy.typing as npt

from batchwright.errors import PlanError
from batchwright.typing import FloatArray


def as_progress(progress: npt.ArrayLike) -> FloatArray:
    """Read progress: 0 at the start, 1 at the end of the curriculum and ever after.

    Args:
        progress: float[m], 0 or more: what was consumed ÷ the horizon of the curriculum.

    Returns:
        float64[m], in [0, 1].

    Raises:
        PlanError: If something in it is negative, NaN or no number.

    Example:
        >>> as_progress([0, 0.5, 7])
        array([0. , 0.5, 1. ])
    """
    try:
        given = np.asarray(progress)
    except ValueError as error:  # rows of different lengths
        raise PlanError(f"progress is no array of numbers: {error}") from error
    if given.dtype.kind not in "iuf":
        raise PlanError(f"progress is {given.dtype}, expected numbers: consumed ÷ horizon.")
    bad = given[~(given >= 0)]
    if bad.size:
        raise PlanError(
            f"progress {float(bad[0])}: expected 0 or more, what was consumed ÷ the horizon."
        )
    # A ufunc makes a NumPy number of an array without dimensions.
    return np.asarray(np.minimum(given.astype(np.float64), 1.0))


def part_done(progress: npt.ArrayLike, reach: float) -> FloatArray:
    """Return how much of the way to `reach` is done: float64[m] in [0, 1], exactly 1 from there.

    Example:
        >>> part_done([0, 0.1, 0.2, 1], reach=0.2)
        array([0. , 0.5, 1. , 1. ])
    """
    # The minimum first: a tiny reach would overflow the quotient.
    return np.asarray(np.minimum(as_progress(progress), reach) / reach)


def grown(share: FloatArray, start: float, done: FloatArray) -> FloatArray:
    """Keep a share between its start and 1, exactly those at the beginning and at the end.

    Formulas reach 1 in exact arithmetic; rounded, they end a hair below, and the hardest sample
    would never be seen.

    Example:
        >>> grown(np.array([0.1, 0.6, 0.9999]), 0.2, np.array([0.0, 0.5, 1.0]))
        array([0.2, 0.6, 1. ])
    """
    within = np.where(done <= 0, start, np.clip(share, start, 1.0))
    return np.where(done >= 1, 1.0, within)


def at_most_all(share: FloatArray) -> FloatArray:
    """Keep a share at most 1, and make it exactly 1 where only rounding left it below.

    Example:
        >>> at_most_all(np.array([0.4, 1 / 49 * 7**2, 1.9])).tolist()  # 0.9999999999999999
        [0.4, 1.0, 1.0]
    """
    return np.where(share >= 1 - 1e-12, 1.0, share)


def powers(base: float, exponents: FloatArray) -> FloatArray:
    """Raise a number to several powers, rounded alike for one and for many.

    NumPy has short cuts for a lone exponent (a square root for 0.5), and its result may differ
    from that of the general way in the last bit.

    Example:
        >>> powers(4.0, np.array([0.0, 0.5, 2.0]))
        array([ 1.,  2., 16.])
    """
    never_alone = np.append(exponents, 0.0)
    with np.errstate(over="ignore"):  # what is too large for a float is infinite
        return np.asarray(np.power(base, never_alone)[:-1].reshape(np.shape(exponents)))


def whole_steps(amount: FloatArray, step: float) -> FloatArray:
    """Return ⌊amount ÷ step⌋, where a quotient that rounding left a hair below counts as whole.

    Example:
        >>> whole_steps(np.array([0.05, 0.3, 0.35]), 0.1)  # 0.3 / 0.1 is 2.9999999999999996
        array([0., 3., 3.])
    """
    with np.errstate(over="ignore"):  # steps without number are as good as infinitely many
        steps = amount / step
    nearest = np.rint(steps)
    is_whole = np.isclose(steps, nearest, rtol=1e-12, atol=1e-9)
    return np.where(is_whole, nearest, np.floor(steps))
