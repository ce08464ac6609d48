"""Hooks in gradient scalers, gradient clipping, and learning rate schedules."""

from __future__ import annotations

import functools
from typing import Any

from .recorder import Recorder
from .updates import updates_of


def watch_scalers(module: Any, recorder: Recorder) -> None:
    """Hook `torch.amp.GradScaler`."""
    updates, kind = updates_of(recorder), module.GradScaler
    step, unscale, scale = kind.step, kind.unscale_, kind.scale

    @functools.wraps(scale)
    def watched_scale(self: Any, *arguments: Any, **options: Any) -> Any:
        if recorder.is_on and self.is_enabled():
            updates.scaler = self
        return scale(self, *arguments, **options)

    @functools.wraps(unscale)
    def watched_unscale(self: Any, optimizer: Any) -> Any:
        done = unscale(self, optimizer)
        updates.unscaled.add(id(optimizer))
        return done

    @functools.wraps(step)
    def watched_step(self: Any, optimizer: Any, *arguments: Any, **options: Any) -> Any:
        applied = updates.num_applied
        done = step(self, optimizer, *arguments, **options)
        if recorder.is_on and self.is_enabled() and updates.num_applied == applied:
            recorder.guarded(updates.skipped, optimizer)
        updates.unscaled.discard(id(optimizer))
        return done

    kind.step, kind.unscale_, kind.scale = watched_step, watched_unscale, watched_scale


def watch_clipping(module: Any, recorder: Recorder) -> None:
    """Hook the functions that clip gradients, before they are imported from this module."""
    updates = updates_of(recorder)

    def watched(clip: Any) -> Any:
        @functools.wraps(clip)
        def clipped(*arguments: Any, **options: Any) -> Any:
            if recorder.is_on and updates.scaler is not None and not updates.unscaled:
                updates.clips_scaled = True
            return clip(*arguments, **options)

        return clipped

    for name in ("clip_grad_norm_", "clip_grad_value_"):
        setattr(module, name, watched(getattr(module, name)))


def watch_schedules(module: Any, recorder: Recorder) -> None:
    """Note learning rate schedules. Their steps are not hooked: schedules would warn about that."""
    updates, kind = updates_of(recorder), module.LRScheduler
    make = kind.__init__

    @functools.wraps(make)
    def made(self: Any, *arguments: Any, **options: Any) -> None:
        updates.schedules.add(self)
        make(self, *arguments, **options)

    kind.__init__ = made
