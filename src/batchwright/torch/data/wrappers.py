"""What trainers put around a sampler, and which of its batches come out of it."""

import copy
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple, TypeVar

Kind = TypeVar("Kind")

_DEPTH = 16
"""Objects looked at inside of one another."""

_HELD = ("batch_sampler", "sampler", "_batch_sampler", "_sampler", "dataloader", "_dataloader")
"""Attributes in which loaders and samplers keep what they draw from."""

_MORE = 10_000
"""Batches looked at beyond the sampler's own: more than twice the processes of a run."""


class Passage(NamedTuple):
    """Which batches of a sampler come out of its wrappers.

    Attributes:
        first: The first of them: how many are skipped.
        step: From one to the next: 1, or the processes that share them. 0: neither.
    """

    first: int
    step: int


class _Numbers:
    """Stands in for a batch sampler: its batches are their own numbers."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[list[int]]:
        return ([number] for number in range(self.count))


def unwrapped(outer: object, kind: type[Kind]) -> tuple[Kind | None, list[object]]:
    """Look for a sampler inside a loader or another sampler.

    Returns:
        The sampler, if there is one; and everything around it, from the outside.
    """
    around: list[object] = []
    while outer is not None and len(around) < _DEPTH:
        if isinstance(outer, kind):
            return outer, around
        around.append(outer)
        held = (getattr(outer, name, None) for name in _HELD)
        outer = next((each for each in held if each is not None), None)
    return None, around


def passage(wrappers: Sequence[object], sampler: object, count: int) -> Passage | None:
    """Return which of a sampler's batches come out of the samplers around it.

    Copies of the wrappers are tried, around numbers in place of the sampler.

    Args:
        wrappers: From the outside.
        sampler: What the last of them holds.
        count: The sampler's batches.

    Returns:
        None if it cannot be known.

    Example:
        >>> from torch.utils.data import BatchSampler
        >>> class Skipping(BatchSampler):
        ...     def __init__(self, batch_sampler):
        ...         self.batch_sampler = batch_sampler
        ...     def __iter__(self):
        ...         return islice(self.batch_sampler, 2, None)
        ...     def __len__(self):
        ...         return len(self.batch_sampler) - 2
        >>> batches = [[7], [8], [9]]
        >>> passage([Skipping(batches)], batches, 3)
        Passage(first=2, step=1)
    """
    inside, numbers = sampler, _Numbers(count + _MORE)
    tried: object = numbers
    try:
        for wrapper in reversed(wrappers):
            double = copy.copy(wrapper)
            names = [name for name, held in vars(double).items() if held is inside]
            vars(double).update(dict.fromkeys(names, tried))
            if not names:
                return None
            inside, tried = wrapper, double
        first, second = (number for [number] in islice(tried, 2))  # type: ignore[call-overload]
        length = len(tried)  # type: ignore[arg-type]
    except Exception:  # noqa: BLE001 (wrappers of others may raise anything)
        return None
    step = second - first
    if step < 1 or (step == 1 and length != len(numbers) - first):
        step = 0
    return Passage(first, step)
