"""Calls after imports: a function is called with a module once it has been executed."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from .recorder import Recorder

Install = Callable[[Any, Recorder], None]
"""Installs hooks in a module."""


def after(installs: Mapping[str, Install], recorder: Recorder) -> None:
    """Install hooks in modules when they are imported, or now if they already are."""
    for name, install in installs.items():
        if name in sys.modules:
            recorder.guarded(install, sys.modules[name], recorder)
    sys.meta_path.insert(0, _Finder(dict(installs), recorder))


class _Finder(MetaPathFinder):
    """Finds modules by the other finders, and replaces their loaders."""

    def __init__(self, installs: dict[str, Install], recorder: Recorder) -> None:
        self._installs, self._recorder = installs, recorder
        self._looking: set[str] = set()

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if fullname not in self._installs or fullname in self._looking:
            return None
        self._looking.add(fullname)
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._looking.discard(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self._installs[fullname], self._recorder)
        return spec


class _Loader(Loader):
    """Loads a module as its own loader does, then installs hooks in it."""

    def __init__(self, inner: Any, install: Install, recorder: Recorder) -> None:
        self._inner, self._install, self._recorder = inner, install, recorder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        created: ModuleType | None = self._inner.create_module(spec)
        return created

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._inner
        module.__loader__ = self._inner
        self._inner.exec_module(module)
        self._recorder.guarded(self._install, module, self._recorder)
