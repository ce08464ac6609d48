"""Passes that one rank runs alone: other ranks are not there to exchange anything with."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import distributed
from torch.utils._python_dispatch import TorchDispatchMode

from batchwright.errors import UpdateError


class ExchangeError(UpdateError):
    """A loss exchanges tensors with other ranks."""


class _Refusing(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation that is none of the process group's."""
        if func.namespace.lstrip("_").startswith("c10d"):
            raise ExchangeError("the loss exchanges tensors with other ranks")
        return func(*args, **(kwargs or {}))


@contextmanager
def refused_exchange() -> Iterator[None]:
    """Refuse what would wait for other ranks meanwhile, before anything is sent.

    Raises:
        ExchangeError: From within, at the first such operation.
    """
    if not distributed.is_available() or not distributed.is_initialized():
        yield
        return
    with _Refusing():  # type: ignore[no-untyped-call]
        yield
