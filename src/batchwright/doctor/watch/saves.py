"""Hooks in functions that write and read checkpoints."""

from __future__ import annotations

import functools
import os
from typing import Any

from .recorder import Recorder


def watch_torch(module: Any, recorder: Recorder) -> None:
    """Hook `torch.save` and `torch.load`."""
    _watch_save(module, "save", recorder, place=1, named="f")
    _watch_load(module, "load", recorder)


def watch_safetensors(module: Any, recorder: Recorder) -> None:
    """Hook `safetensors.torch`."""
    for name in ("save_file", "save_model"):
        _watch_save(module, name, recorder, place=1, named="filename")
    _watch_load(module, "load_file", recorder)


def watch_keras(module: Any, recorder: Recorder) -> None:
    """Hook models of Keras."""
    for name in ("save", "save_weights"):
        _watch_save(module.Model, name, recorder, place=1, named="filepath")


def _watch_save(module: Any, name: str, recorder: Recorder, *, place: int, named: str) -> None:
    """Record calls that write a file, given by the argument at this place or of this name."""
    save = getattr(module, name, None)
    if save is None:
        return

    @functools.wraps(save)
    def watched(*arguments: Any, **options: Any) -> Any:
        done = save(*arguments, **options)
        if recorder.is_on and recorder.num_updates:
            file = arguments[place] if len(arguments) > place else options.get(named)
            recorder.guarded(recorder.saved, known_as(file))
        return done

    setattr(module, name, watched)


def _watch_load(module: Any, name: str, recorder: Recorder) -> None:
    """Record calls that read a file, their first argument, before the first update."""
    load = getattr(module, name, None)
    if load is None:
        return

    @functools.wraps(load)
    def watched(*arguments: Any, **options: Any) -> Any:
        if recorder.is_on and not recorder.num_updates and arguments:
            file = recorder.guarded(known_as, arguments[0])
            if file is not None:
                recorder.add("read", file)
        return load(*arguments, **options)

    setattr(module, name, watched)


def known_as(file: Any) -> str | None:
    """Identify a file by its inode, time and size; None if it is not a file, but a buffer.

    Example:
        >>> import io
        >>> known_as(io.BytesIO()) is None
        True
    """
    try:
        is_named = isinstance(file, (str, os.PathLike))
        facts = os.stat(file if is_named else file.fileno())  # noqa: PTH116 -- or of a number
    except (OSError, AttributeError):
        return None
    return f"{facts.st_ino}-{facts.st_mtime_ns}-{facts.st_size}"
