"""The batches of one epoch: what the model gets, from what the plan says."""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from batchwright.errors import PlanError, PlanMismatchError
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
            PlanMismatchError: If the plan truncates samples and `fetch` does not.
        """
        number = operator.index(batch)
        fetched = self.fetch(*self._entries(number))
        self._check_size(fetched, number)
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

    def _check_size(self, fetched: Any, batch: int) -> None:
        """Hold a batch against the plan, where weights [B, T] say what its tokens are.

        Columns without a weight are padding, which `fetch` may add for the sake of few shapes.
        """
        layout = self.plan.layout
        if not isinstance(fetched, tuple | list) or len(fetched) != 3 or fetched[2] is None:
            return
        if np.ndim(fetched[2]) != 2 or self.plan.starts is not None:
            return
        most = layout.max_length
        if not isinstance(most, int) or np.shape(fetched[2])[1] <= most:
            return
        if np.asarray(fetched[2])[:, most:].any():
            raise PlanMismatchError(
                f"batch {batch} has rows of {np.shape(fetched[2])[1]} tokens, where the plan "
                f'truncates samples to {most} (oversize="truncate"): it would exceed the budget. '
                "Let fetch cut them: plan.layout.max_length."
            )

    def _entries(self, batch: int) -> tuple[Any, ...]:
        indices = self.plan[batch]
        if self.plan.starts is None:
            return (indices,)
        first = int(self.plan.offsets[batch])
        return indices, self.plan.starts[first : first + indices.size]
