"""Precision in Keras: given or measured, and what loss scaling does in `fit`."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import keras
import numpy as np

from batchwright._measuring import medians, quickest
from batchwright.errors import PrecisionError, UpdateError
from batchwright.typing import Field, State

Mode: TypeAlias = Literal["fp32", "bf16", "fp16"]
"""Single precision, or mixed bfloat16 or float16 with variables in single precision."""

_POLICIES: dict[Mode, str] = {
    "fp32": "float32",
    "bf16": "mixed_bfloat16",
    "fp16": "mixed_float16",
}


@dataclass(frozen=True)
class Trial:
    """What was measured of one mode."""

    mode: Mode
    milliseconds: float  # median of a training step
    ratio: float  # median over rounds of its time over the first mode's in the same round
    loss: float  # of its first step; from the same weights in all modes if models come built


@dataclass(frozen=True)
class Evidence:
    """Which precision was set, and why."""

    mode: Mode
    dtype_policy: str  # Keras' name of the mode
    trials: tuple[Trial, ...] = ()  # the simplest mode first; empty if the mode was given
    ruled_out: Mapping[str, str] = field(default_factory=dict)  # mode → why it was not chosen


def set_precision(
    mode: Mode | Literal["auto"],
    *,
    build: Callable[[], keras.Model] | None = None,
    batch: Sequence[Field] | None = None,
    rounds: int = 4,
) -> Evidence:
    """Set the precision of layers made from now on, by `keras.config.set_dtype_policy`.

    ``"auto"`` trains a few steps in each precision, in turns, and chooses mixed precision only if
    it is more than 3 % faster than what is simpler. A model compiled in mixed float16 scales its
    loss (``auto_scale_loss=True``); `LossScaleFloor` watches the scale.

    Args:
        mode: ``"fp32"``, ``"bf16"`` (mixed bfloat16), ``"fp16"`` (mixed float16), Keras' name of
            one of these, or ``"auto"``.
        build: For ``"auto"``: makes the compiled model, its layers included. It is called once for
            each precision; call it once more for the model to train.
        batch: For ``"auto"``: ``(x, y)`` or ``(x, y, sample_weight)``, a typical one.
        rounds: For ``"auto"``: steps of each precision, after two to warm up.

    Returns:
        What was set, and what was measured for it.

    Raises:
        PrecisionError: If there is no such mode, or ``"auto"`` has nothing to measure.

    Example:
        >>> before = keras.config.dtype_policy()
        >>> set_precision("bf16").dtype_policy, keras.layers.Dense(1).compute_dtype
        ('mixed_bfloat16', 'bfloat16')
        >>> keras.config.set_dtype_policy(before)
    """
    names: dict[str, Mode] = {policy: each for each, policy in _POLICIES.items()}
    mode = names.get(mode, mode)
    if mode == "auto":
        if build is None or batch is None:
            raise PrecisionError(
                'set_precision("auto") measures: give build=, a function that makes the compiled '
                "model, and batch=, the arrays of a typical batch."
            )
        evidence = _measured(build, batch, rounds)
    elif mode in _POLICIES:
        evidence = Evidence(mode, _POLICIES[mode])
    else:
        listed = ", ".join(f'"{each}"' for each in ("auto", *_POLICIES))
        raise PrecisionError(
            f"set_precision({mode!r}): expected one of {listed}. Set other formats with "
            "keras.config.set_dtype_policy."
        )
    keras.config.set_dtype_policy(evidence.dtype_policy)
    return evidence


def _measured(build: Callable[[], keras.Model], batch: Sequence[Field], rounds: int) -> Evidence:
    """Time steps of each mode; leave the global policy and Python's random numbers as they were."""
    before, state = keras.config.dtype_policy(), random.getstate()
    ruled_out: dict[str, str] = {}
    if "cpu" in str(keras.ops.convert_to_tensor(0.0).device).lower():
        ruled_out["fp16"] = "float16 is emulated on a CPU, many times slower."
    models: dict[Mode, keras.Model] = {}
    try:
        for mode, policy in _POLICIES.items():
            if mode in ruled_out:
                continue
            keras.config.set_dtype_policy(policy)
            model = build()
            if any(model is other for other in models.values()):
                raise PrecisionError(
                    "build() returned the same model twice. Make it inside, layers included: a "
                    "layer's precision is set when it is made."
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
    finite = [each for each in trials[1:] if each.mode not in ruled_out]
    mode = quickest({each.mode: each.ratio for each in (trials[0], *finite)})
    return Evidence(mode, _POLICIES[mode], trials, ruled_out)


def _timed(
    models: Mapping[Mode, keras.Model], batch: Sequence[Field], rounds: int
) -> tuple[Trial, ...]:
    first, *others = models.values()
    if all(model.built for model in models.values()):
        for model in others:
            for mine, theirs in zip(model.weights, first.weights, strict=True):
                mine.assign(keras.ops.copy(theirs.value))  # JAX gives away what it trains
    losses: dict[Mode, float] = {}
    seconds: dict[Mode, list[float]] = {mode: [] for mode in models}
    # The first step compiles; in the second, the optimizer has its variables for the first time.
    for number in range(2 + rounds):
        for mode, model in models.items():
            begun = time.perf_counter()
            loss = float(model.train_on_batch(*batch, return_dict=True)["loss"])  # Keras waits
            losses.setdefault(mode, loss)
            if number > 1:
                seconds[mode].append(time.perf_counter() - begun)
    return tuple(
        Trial(mode, 1e3 * median, ratio, losses[mode])
        for mode, (median, ratio) in medians(seconds).items()
    )


def applied_updates(model: keras.Model) -> int:
    """Count the updates that moved the parameters of a compiled model.

    In mixed float16, steps whose gradients are not finite are skipped and not counted. With
    `gradient_accumulation_steps` an update is counted once. Learning rate schedules use this count.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> applied_updates(model)
        0
    """
    return int(_value(model, model.optimizer.iterations))


class LossScaleFloor(keras.callbacks.Callback):  # type: ignore[misc]
    """Stops training in mixed float16 whose gradients are not finite at any loss scale.

    `keras.optimizers.LossScaleOptimizer` halves the scale at each such step, down to zero, without
    a warning: the model no longer learns. In other precisions this callback does nothing.

    Args:
        floor: A scale below this is an error.
        every: Check the scale after so many batches, and at the end of each epoch. Each check
            waits for the device.

    Raises:
        UpdateError: In `fit`, if the scale is below the floor, or the loss is not scaled.
    """

    def __init__(self, floor: float = 1.0, *, every: int = 32) -> None:
        super().__init__()
        if not floor > 0 or every < 1:
            raise UpdateError(
                f"floor={floor}, every={every}: expected a scale above 0, and at least 1 batch."
            )
        self._floor, self._every, self._seen = floor, every, 0

    def on_train_begin(self, logs: State | None = None) -> None:
        """Check that the loss of a model in mixed float16 is scaled."""
        self._seen = 0
        is_half = self.model.dtype_policy.name == "mixed_float16"
        is_scaled = isinstance(self.model.optimizer, keras.optimizers.LossScaleOptimizer)
        if is_half and not is_scaled:
            raise UpdateError(
                "the model computes in mixed float16, but its loss is not scaled: small "
                "gradients become zero. Compile it with auto_scale_loss=True."
            )

    def on_train_batch_end(self, batch: int, logs: State | None = None) -> None:
        """Check the scale from time to time."""
        self._seen += 1
        if self._seen % self._every == 0:
            self.on_epoch_end(0)

    def on_epoch_end(self, epoch: int, logs: State | None = None) -> None:
        """Check the scale."""
        optimizer = self.model.optimizer
        is_scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        if not is_scaled or not optimizer.built:
            return
        scale = _value(self.model, optimizer.dynamic_scale)
        if scale < self._floor:
            raise UpdateError(
                f"the loss scale fell to {scale:g}, below {self._floor:g}, with "
                f"{applied_updates(self.model)} updates applied: gradients are not finite even at "
                'that scale. Look for NaN in the data, lower the learning rate, or use "bf16".'
            )


def _value(model: keras.Model, variable: Field) -> float:
    if keras.backend.backend() == "jax":
        model.jax_state_sync()  # copies what steps changed back into the model's variables
    return float(keras.ops.convert_to_tensor(variable))
