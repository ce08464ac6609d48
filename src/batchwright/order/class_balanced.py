"""Classes in equal shares, or nearer to it than they come."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field

import numpy as np
import numpy.typing as npt

from batchwright.checks import keep_number, keep_whole
from batchwright.errors import PlanError
from batchwright.order.mixture import Mixture
from batchwright.order.pools import Pools
from batchwright.order.scores import as_groups
from batchwright.typing import IntArray, LengthArray


@dataclass(frozen=True, eq=False)
class ClassBalanced:
    """Draw rare classes more often than they come.

    A `Mixture` of the classes with shares of ``size ** (1 / temperature)``, from some epoch on:
    counts are exact, and inside a class no sample is drawn twice before each was drawn once.

    Args:
        labels: [n], the class of each sample: integers or names.
        temperature: Infinity draws all classes alike, 2 by the square root of their size, 1 as
            they come. For tails of a few samples, 2 to 5 is kinder than infinity.
        after: Epochs that are plain shuffles before (*deferred* balancing).
        num_samples: Draws of an epoch. None: as many as there are samples.
        parts: Into which an epoch is cut; shares are exact at the end of each.

    Raises:
        ScoresError: If labels are not [n].
        PlanError: If a setting makes no sense.

    Example:
        >>> order = ClassBalanced([0, 0, 0, 1], parts=1)
        >>> sorted(order(np.array([5, 5, 5, 5]), seed=0, epoch=0).members.tolist())[2:]
        [3, 3]

    Source: deferred: K. Cao et al., *Learning Imbalanced Datasets with Label-Distribution-Aware
    Margin Loss*, 2019, arXiv:1906.07413.
    """

    labels: npt.ArrayLike = field(repr=False)
    _: KW_ONLY
    temperature: float = np.inf
    after: int = 0
    num_samples: int | None = None
    parts: int = 8
    mixture: Mixture = field(init=False, repr=False)

    varies = True

    def __post_init__(self) -> None:
        """Make the mixture."""
        keep_whole(self, "parts", optional=("num_samples",), error=PlanError)
        keep_whole(self, "after", least=0, error=PlanError)
        keep_number(
            self, "temperature", lambda value: value > 0, "a positive number", error=PlanError
        )
        mixture = Mixture(
            as_groups(self.labels, name="labels"),
            temperature=self.temperature,
            num_samples=self.num_samples,
            parts=self.parts,
        )
        object.__setattr__(self, "mixture", mixture)

    def __call__(self, lengths: LengthArray, *, seed: int, epoch: int) -> Pools:
        """Return the samples of an epoch; see `Mixture`."""
        if epoch < self.after:
            return Pools(np.arange(lengths.size), np.array([0, lengths.size]))
        return self.mixture(lengths, seed=seed, epoch=epoch - self.after)

    @property
    def probes(self) -> IntArray:
        """The epochs to look at for a number of batches."""
        later = self.mixture.probes + self.after
        return np.concatenate(([0], later)) if self.after else later
