"""What the samples of a batch have in common, and what no two of them share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from batchwright._keyed import hash_of
from batchwright.order.scores import as_groups, refuse_other_data
from batchwright.typing import IntArray

_NONE = -1
"""No key, or no group. Python's `hash` never returns it."""


@dataclass(frozen=True, eq=False)
class Constraints:
    """One number for each sample, int64[n], for each constraint that there is."""

    within: IntArray | None  # the group of each sample, from 0: those of a batch are of one
    unique: IntArray | None  # its key, from 0; -1: none. Those of a batch have different ones
    together: IntArray | None  # its group, from 0: the samples of one stay in one batch
    names: npt.NDArray[np.generic] | None  # of the groups that stay together, -1 of samples alone

    @classmethod
    def of(
        cls,
        within: npt.ArrayLike | None,
        unique: npt.ArrayLike | None,
        together: npt.ArrayLike | None,
        num_samples: int,
    ) -> Constraints | None:
        """Check one value per sample, [n], each; return None if there is no constraint."""
        given = {"within": within, "unique": unique, "together": together}
        found = {
            name: _numbered(values, num_samples, name)
            for name, values in given.items()
            if values is not None
        }
        if not found:
            return None
        groups = _alone(*found["together"]) if "together" in found else None
        return cls(
            None if within is None else found["within"][0],
            None if unique is None else _without_key(*found["unique"]),
            None if groups is None else groups[0],
            None if groups is None else groups[1],
        )

    def described(self) -> dict[str, str]:
        """Hash each constraint; names of groups and keys do not matter."""
        each = {"within": self.within, "unique": self.unique, "together": self.together}
        return {
            name: hash_of(numbers.astype("<i8").tobytes())
            for name, numbers in each.items()
            if numbers is not None
        }


def difference(saved: Mapping[str, str], ours: Mapping[str, str]) -> str:
    """Name the constraints that differ, for a message.

    Example:
        >>> difference({"unique": "a"}, {"unique": "b", "within": "c"})
        'within= and unique='
    """
    names = [name for name in ("within", "unique", "together") if saved.get(name) != ours.get(name)]
    return " and ".join(f"{name}=" for name in names) or "constraint"


def _numbered(
    values: npt.ArrayLike, num_samples: int, name: str
) -> tuple[IntArray, npt.NDArray[np.generic]]:
    """Number values from 0, in the sequence in which they first come; return their names, too."""
    array = as_groups(values, name=name)
    refuse_other_data(array.size, num_samples, name=name)
    numbers, firsts = _by_first(array)
    return numbers, array[firsts]


def _by_first(values: npt.NDArray[np.generic]) -> tuple[IntArray, IntArray]:
    """Number values in the sequence in which they first come; return where each does, too."""
    _, firsts, codes = np.unique(values, return_index=True, return_inverse=True)
    by_first = np.argsort(firsts)
    numbers = np.empty_like(by_first)
    numbers[by_first] = np.arange(by_first.size)
    return numbers[codes.reshape(-1)], firsts[by_first]


def is_none(names: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_]:
    """Say which names mean no key, or no group; NumPy makes text of -1 beside names.

    Example:
        >>> is_none(np.array([-1, "a"])).tolist()
        [True, False]
    """
    none: object = {"U": str(_NONE), "S": str(_NONE).encode()}.get(names.dtype.kind, _NONE)
    if names.dtype.kind not in "ifUSO":
        return np.zeros(names.size, dtype=np.bool_)
    return np.asarray(names == none, dtype=np.bool_)


def _without_key(numbers: IntArray, names: npt.NDArray[np.generic]) -> IntArray:
    return np.where(is_none(names)[numbers], -1, numbers)


def _alone(
    numbers: IntArray, names: npt.NDArray[np.generic]
) -> tuple[IntArray, npt.NDArray[np.generic]]:
    """Give each sample of no group one of its own, and number groups again."""
    alone = np.flatnonzero(is_none(names)[numbers])
    if alone.size:
        named = numbers
        numbers = numbers.copy()
        numbers[alone] = names.size + np.arange(alone.size)
        numbers, firsts = _by_first(numbers)
        names = names[named[firsts]]
    return numbers, names
