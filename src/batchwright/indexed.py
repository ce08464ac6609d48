"""The samples of an epoch that visits all of them: those of a length index, within the budget."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from batchwright.batches import Entries
from batchwright.index import LengthIndex
from batchwright.layout import Layout
from batchwright.oversize import Items, fit_items
from batchwright.typing import IntArray, Oversize


@dataclass(frozen=True, eq=False)
class Indexed:
    """All samples within the budget, or pieces of samples, sorted by a `LengthIndex`."""

    index: LengthIndex
    skip: int = 0  # the longest samples, which are left out
    limit: int | None = None  # what longer samples are cut to. None: none is cut
    items: Items | None = None  # pieces of samples, which the index is of. None: samples
    source: str = ""  # of pieces, the hash of the lengths of samples
    values: IntArray = field(init=False)  # as `Sorted` has them: none above the budget
    counts: IntArray = field(init=False)

    def __post_init__(self) -> None:
        """Count the samples that are left of each length."""
        values, counts = self.index.values, self.index.counts
        if self.skip:
            kept = int(np.searchsorted(np.cumsum(counts), self.skip, side="right"))
            values, counts = values[kept:], counts[kept:]
        if self.limit is not None and (over := int(np.count_nonzero(values >= self.limit))):
            values = np.append(self.limit, values[over:])
            counts = np.append(counts[:over].sum(), counts[over:])
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "counts", counts)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle without what can be counted again."""
        return Indexed, (self.index, self.skip, self.limit, self.items, self.source)

    @property
    def num_samples(self) -> int:
        """How many samples there are in the data."""
        first = None if self.items is None else self.items.first
        return self.index.num_samples if first is None else first.size - 1

    def take(self, positions: IntArray) -> npt.NDArray[np.integer[Any]]:
        """Return the samples or pieces at some positions, integer[...]."""
        if self.skip:
            positions = positions + self.skip
        return self.index.ids[positions]

    def entries(self, taken: npt.NDArray[np.integer[Any]]) -> Entries:
        """Return the samples of pieces, and where in them these begin."""
        found = taken.astype(np.int64, copy=False)
        return Entries(found) if self.items is None else Entries(*self.items.samples(found))

    def identity(self) -> str:
        """Return hashes of the lengths of samples and of pieces, and how many are left out."""
        return f"{self.source} {self.index.fingerprint} {self.skip}"

    @classmethod
    def of(cls, index: LengthIndex, layout: Layout, oversize: Oversize) -> tuple[Indexed, Items]:
        """Apply the policy for samples that alone exceed the budget.

        Returns:
            The samples, and what became of the longest of them; without the lengths of each.
        """
        nothing, limit = np.empty(0, dtype=np.int64), layout.longest_row
        fits = layout.fits(index.values)
        if fits.all():
            return cls(index), Items(nothing)
        if oversize == "drop" and fits.any():
            over = int(index.counts[~fits].sum())
            dropped = np.sort(index.ids[:over].astype(np.int64))
            return cls(index, over), Items(nothing, dropped)
        if oversize == "truncate" and limit is not None:
            return cls(index, limit=limit), Items(nothing, max_length=limit)
        items = fit_items(index.lengths(), layout, oversize)  # raises, or splits
        pieces = LengthIndex.build(items.lengths)
        return cls(pieces, items=items, source=index.fingerprint), items
