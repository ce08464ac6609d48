"""Which precision pays: a few interleaved steps of each, on the user's own model and batch."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import keras
import numpy as np

from batchwright.errors import PrecisionError

Mode: TypeAlias = Literal["fp32", "bf16", "fp16"]
"""How numbers are kept: single, or mixed brain or half floats with single variables."""

POLICIES: dict[Mode, str] = {
    "fp32": "float32",
    "bf16": "mixed_bfloat16",
    "fp16": "mixed_float16",
}
"""Mode → the name of Keras' policy, the simplest first."""

TIE = 0.97
"""A mode has to take less than this share of a simpler one's time to be worth it."""


@dataclass(frozen=True)
class Trial:
    """What was measured of one mode.

    Attributes:
        mode: The mode.
        milliseconds: Median of a training step.
        ratio: Median over rounds of its time over that of the first mode, in the same round.
        loss: Of its first step; from the same weights in all modes, if models come built.
    """

    mode: Mode
    milliseconds: float
    ratio: float
    loss: float


@dataclass(frozen=True)
class Evidence:
    """Which precision was set, and why.

    Attributes:
        mode: The precision.
        dtype_policy: Keras' name for it.
        trials: What was measured, the simplest mode first; empty where the mode was given.
        ruled_out: Mode → why it was not timed.
    """

    mode: Mode
    dtype_policy: str
    trials: tuple[Trial, ...] = ()
    ruled_out: Mapping[str, str] = field(default_factory=dict)


def measured(
    build: Callable[[], keras.Model], batch: Sequence[Any], *, rounds: int = 4
) -> Evidence:
    """Time a few training steps of each mode, in turns, and choose.

    Args:
        build: Makes the compiled model anew, its layers included: their precision is fixed when
            they are made.
        batch: ``(x, y)`` or ``(x, y, sample_weight)``, a typical one.
        rounds: Steps of each mode, after two to warm up.

    Returns:
        The evidence. The global policy and Python's random numbers are left as they were.

    Raises:
        PrecisionError: If `build` does not make a model anew each time.
    """
    before, state = keras.config.dtype_policy(), random.getstate()
    ruled_out: dict[str, str] = {
        mode: reason for mode in POLICIES if (reason := _ruled_out(mode)) is not None
    }
    models: dict[Mode, keras.Model] = {}
    try:
        for mode, policy in POLICIES.items():
            if mode in ruled_out:
                continue
            keras.config.set_dtype_policy(policy)
            model = build()
            if any(model is other for other in models.values()):
                raise PrecisionError(
                    "build() returned the same model twice. Make it, layers included, inside: "
                    "precision is fixed when a layer is made."
                )
            dtype = keras.DTypePolicy(policy).compute_dtype
            dtypes = {layer.compute_dtype for layer in model.layers}
            if mode != "fp32" and dtypes and dtype not in dtypes:
                ruled_out[mode] = f"build() makes no layer that computes in {dtype}."
                continue
            models[mode] = model
        trials = _timed(models, batch, rounds)
    finally:
        keras.config.set_dtype_policy(before)
        random.setstate(state)
    for trial in trials:
        if not np.isfinite(trial.loss):
            ruled_out[trial.mode] = f"its loss was {trial.loss} at the first step."
    return Evidence(mode := choose(trials), POLICIES[mode], trials=trials, ruled_out=ruled_out)


def choose(trials: Sequence[Trial]) -> Mode:
    """Take the quickest mode whose loss is finite; ties go to the simpler one.

    Args:
        trials: What was measured, the simplest mode first.

    Returns:
        The mode. Never one that took longer than the simplest.

    Example:
        >>> choose([Trial("fp32", 10.0, 1.0, 2.3), Trial("bf16", 9.9, 0.99, 2.3)])
        'fp32'
        >>> choose([Trial("fp32", 10.0, 1.0, 2.3), Trial("bf16", 6.0, 0.6, 2.3)])
        'bf16'
    """
    best = trials[0]
    for trial in trials[1:]:
        if np.isfinite(trial.loss) and trial.ratio < TIE * best.ratio:
            best = trial
    return best.mode


def _timed(
    models: Mapping[Mode, keras.Model], batch: Sequence[Any], rounds: int
) -> tuple[Trial, ...]:
    _share_weights(list(models.values()))
    # The first step compiles; the second is the first that finds an optimizer with its variables.
    losses = {mode: _step(model, batch)[1] for mode, model in models.items()}
    for model in models.values():
        _step(model, batch)
    seconds: dict[Mode, list[float]] = {mode: [] for mode in models}
    for _ in range(rounds):
        for mode, model in models.items():
            seconds[mode].append(_step(model, batch)[0])
    first = seconds[next(iter(models))]
    return tuple(
        Trial(
            mode,
            1e3 * float(np.median(seconds[mode])),
            float(np.median(np.divide(seconds[mode], first))),
            losses[mode],
        )
        for mode in models
    )


def _step(model: keras.Model, batch: Sequence[Any]) -> tuple[float, float]:
    """Train on the batch; return seconds and the loss, for which Keras waits for the device."""
    begun = time.perf_counter()
    logs = model.train_on_batch(*batch, return_dict=True)
    return time.perf_counter() - begun, float(logs["loss"])


def _share_weights(models: Sequence[keras.Model]) -> None:
    if all(model.built for model in models):
        for model in models[1:]:
            for mine, first in zip(model.weights, models[0].weights, strict=True):
                mine.assign(keras.ops.copy(first.value))  # JAX gives away what it trains


def _ruled_out(mode: Mode) -> str | None:
    """Say why a mode need not be measured here; None if only a measurement can tell."""
    device = str(keras.ops.convert_to_tensor(0.0).device).lower()
    if mode == "fp16" and "cpu" in device:
        return "half floats are emulated on a processor, many times slower."
    return None
