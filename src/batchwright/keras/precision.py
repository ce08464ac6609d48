"""The precision of every layer that is made from now on: given, or measured."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import keras

from batchwright.errors import PrecisionError
from batchwright.keras.measuring import POLICIES, Evidence, Mode, measured


def set_precision(
    mode: Mode | Literal["auto"],
    *,
    build: Callable[[], keras.Model] | None = None,
    batch: Sequence[Any] | None = None,
    rounds: int = 4,
) -> Evidence:
    """Set the precision of layers made from now on, by `keras.config.set_dtype_policy`.

    ``"auto"`` trains a few steps in each precision, in turns, and takes one that is not single
    only where it is more than 3 % faster than what is simpler. Hardware alone does not tell: the
    same processor loses by brain floats on a small model, and wins by them on a large one.

    A model that is compiled in mixed float16 scales its loss (``auto_scale_loss=True``);
    `LossScaleFloor` watches over that, and `applied_updates` counts what was not skipped.

    Args:
        mode: ``"fp32"``, ``"bf16"`` (mixed bfloat16), ``"fp16"`` (mixed float16), Keras' name of
            one of these, or ``"auto"``.
        build: For ``"auto"``: makes the compiled model, its layers included. It is called once for
            each precision; call it yourself once more for the model to train.
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
    names: dict[str, Mode] = {policy: each for each, policy in POLICIES.items()}
    mode = names.get(mode, mode)
    if mode == "auto":
        if build is None or batch is None:
            raise PrecisionError(
                'set_precision("auto") measures: give build=, a function that makes the compiled '
                "model, and batch=, the arrays of a typical batch."
            )
        evidence = measured(build, batch, rounds=rounds)
    elif mode in POLICIES:
        evidence = Evidence(mode, POLICIES[mode])
    else:
        listed = ", ".join(f'"{each}"' for each in ("auto", *POLICIES))
        raise PrecisionError(
            f"set_precision({mode!r}): expected one of {listed}. Other formats are set with "
            "keras.config.set_dtype_policy."
        )
    keras.config.set_dtype_policy(evidence.dtype_policy)
    return evidence
