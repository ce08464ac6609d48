"""Random numbers replaced by constants, so that a batch and its parts see the same."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

_DROPOUT = frozenset({"dropout_p", "dropout"})


class FixedRandomness(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Makes random operations deterministic, each row alike, in forward and in backward.

    Dropout keeps everything; other draws give one constant; a permutation shifts by one, so that
    losses that pair rows at random still pair different rows. What remains is a function of the
    rows alone, whose sums can be compared exactly.

    Example:
        >>> with FixedRandomness():
        ...     torch.nn.functional.dropout(torch.ones(3), 0.5).tolist(), torch.randperm(3).tolist()
        ([2.0, 2.0, 2.0], [1, 2, 0])
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation, or what stands in for it."""
        kwargs = dict(kwargs or {})
        arguments = func._schema.arguments  # noqa: SLF001 (there is no other way to a schema)
        fixed = func._schema.name == "aten::native_dropout"  # noqa: SLF001
        for place, argument in enumerate(arguments):
            if argument.name in _DROPOUT or (fixed and argument.name == "p"):
                if place < len(args):
                    args = (*args[:place], 0.0, *args[place + 1 :])
                elif argument.name in kwargs:
                    kwargs[argument.name] = 0.0
        drawn = func(*args, **kwargs)
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return drawn
        name = func._schema.name.removeprefix("aten::")  # noqa: SLF001
        if name.startswith("randperm"):
            return drawn.copy_(torch.arange(drawn.numel(), device=drawn.device).roll(-1))
        if name.startswith(_DRAWS):
            low = _bound(arguments, args, kwargs)
            one = name.startswith("bernoulli")
            return tree_map_only(
                torch.Tensor,
                lambda each: each.fill_(1 if one else 0.5 if each.is_floating_point() else low),
                drawn,
            )
        return drawn


_DRAWS = (
    "bernoulli",
    "cauchy",
    "exponential",
    "geometric",
    "log_normal",
    "multinomial",
    "normal",
    "poisson",
    "rand",
    "uniform",
)


def _bound(arguments: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Return the smallest value that an integer draw may give."""
    for place, argument in enumerate(arguments):
        if argument.name in {"low", "from"}:
            given = args[place] if place < len(args) else kwargs.get(argument.name)
            return int(given or 0)
    return 0
