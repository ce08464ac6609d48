"""Hooks in what writes checkpoints."""

from __future__ import annotations

import functools
from typing import Any

from .recorder import Recorder


def _watch(module: Any, name: str, recorder: Recorder) -> None:
    save = getattr(module, name, None)
    if save is None:
        return

    @functools.wraps(save)
    def watched(*arguments: Any, **options: Any) -> Any:
        done = save(*arguments, **options)
        if recorder.is_on and recorder.num_updates:
            recorder.guarded(recorder.saved)
        return done

    setattr(module, name, watched)


def watch_torch(module: Any, recorder: Recorder) -> None:
    """Hook `torch.save`."""
    _watch(module, "save", recorder)


def watch_safetensors(module: Any, recorder: Recorder) -> None:
    """Hook `safetensors.torch`."""
    for name in ("save_file", "save_model"):
        _watch(module, name, recorder)


def watch_keras(module: Any, recorder: Recorder) -> None:
    """Hook models of Keras."""
    for name in ("save", "save_weights"):
        _watch(module.Model, name, recorder)
