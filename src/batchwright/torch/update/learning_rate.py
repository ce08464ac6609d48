"""Learning rates for updates of unlike weight."""

from collections.abc import Callable
from typing import Literal

from batchwright.errors import LossError


def scaled_by_weight(
    reference: float, rule: Literal["linear", "sqrt"] = "sqrt"
) -> Callable[[float], float]:
    """Make the factor on the learning rate that an update's weight calls for.

    Pass it as `learning_rate` of `Precision.update`: it acts on that step alone, under any
    scheduler. A constant number of tokens an update, as plans give, needs none.

    Args:
        reference: The weight that the learning rate was tuned for, in the unit of the update's
            own weight: tokens, samples.
        rule: ``"linear"`` in the weight, as fits SGD; or its square root, as fits Adam.

    Returns:
        ``weight → factor``, 1 at the reference.

    Raises:
        LossError: If the reference is not positive, or there is no such rule.

    References:
        Goyal et al., *Accurate, Large Minibatch SGD*, 2017, arXiv 1706.02677 (linear).
        Malladi et al., *On the SDEs and Scaling Rules for Adaptive Gradient Algorithms*, 2022,
        arXiv 2205.10287 (square root).

    Example:
        >>> scaled_by_weight(1000, "linear")(500), scaled_by_weight(1000)(4000)
        (0.5, 2.0)
    """
    powers = {"linear": 1.0, "sqrt": 0.5}
    if rule not in powers:
        raise LossError(f'rule={rule!r}: expected "linear" or "sqrt".')
    if not 0 < reference < float("inf"):
        raise LossError(f"reference={reference!r}: expected a positive number of tokens.")
    power = powers[rule]
    return lambda weight: float((weight / reference) ** power)
