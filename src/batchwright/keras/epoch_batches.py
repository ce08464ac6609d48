"""The batches of one epoch: what the model gets, from what the plan says."""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from batchwright.errors import PlanError
from batchwright.keras.exact_weights import MeanWeight, scaled
from batchwright.plans import Plan

Fetch: TypeAlias = Callable[..., Any]
"""int64[B] sample indices → ``(x, y, sample_weight)``, padded arrays with B rows. Where the plan
splits samples, it is called with int64[B] starts as well: where in its sample each row begins."""


@dataclass(frozen=True, eq=False)
class EpochBatches:
    """Fetches the batches of one epoch by number.

    Args:
        plan: The epoch.
        fetch: Makes a batch of sample indices.
        mean: Scales sample weights for the exact gradient. None: they pass as they are.
    """

    plan: Plan
    fetch: Fetch
    mean: MeanWeight | None

    def __len__(self) -> int:
        """Count the batches."""
        return len(self.plan)

    def __call__(self, batch: int) -> Any:
        """Fetch one batch, and scale its weights.

        Args:
            batch: From 0.

        Returns:
            As `fetch` does.

        Raises:
            IndexError: If there is no such batch.
            PlanError: If weights are to be exact, and there are none.
        """
        number = operator.index(batch)
        fetched = self.fetch(*self._entries(number))
        if self.mean is None or not isinstance(fetched, tuple | list):
            return fetched
        if len(fetched) == 2:
            raise PlanError(
                "fetch returned (x, y) without sample_weight, so nothing says what is padding. "
                "Return (x, y, sample_weight), with 1 where the loss counts and 0 where not; or "
                "make the data set with exact=False."
            )
        if len(fetched) != 3 or fetched[2] is None:
            return fetched
        x, y, sample_weight = fetched
        return x, y, scaled(sample_weight, self.mean)

    def _entries(self, batch: int) -> tuple[Any, ...]:
        indices = self.plan[batch]
        if self.plan.starts is None:
            return (indices,)
        first = int(self.plan.offsets[batch])
        return indices, self.plan.starts[first : first + indices.size]
