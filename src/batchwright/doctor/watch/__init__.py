"""Hooks in the processes of a watched run. They record what happens, and change nothing.

They import only the standard library, and use modules that the run itself has imported.
"""

from __future__ import annotations

import atexit
import importlib.util
import sys

from . import frameworks, imports, loaders, products, saves, scaling, updates
from .recorder import Recorder


def begin() -> None:
    """Start recording this process, from its imports on."""
    recorder = Recorder.of_environment()
    imports.after(
        {
            "torch.utils.data.dataloader": loaders.watch_torch,
            "torchdata.stateful_dataloader.stateful_dataloader": loaders.watch_torchdata,
            "accelerate.data_loader": frameworks.watch_accelerate,
            "grain._src.python.data_loader": frameworks.watch_grain,
            "keras.src.optimizers.base_optimizer": frameworks.watch_keras_optimizers,
            "keras.src.models.model": saves.watch_keras,
            "torch.autograd": updates.watch_backward,
            "torch.optim.optimizer": updates.watch_optimizers,
            "torch.optim.lr_scheduler": scaling.watch_schedules,
            "torch.amp.grad_scaler": scaling.watch_scalers,
            "torch.nn.utils.clip_grad": scaling.watch_clipping,
            "torch.nn.modules.module": products.watch_modules,
            "torch.serialization": saves.watch_torch,
            "safetensors.torch": saves.watch_safetensors,
        },
        recorder,
    )
    atexit.register(recorder.guarded, _tell_python, recorder)


def _tell_python(recorder: Recorder) -> None:
    """Record which Python this is, and whether it has torch."""
    if recorder.is_on:
        has_torch = "torch" in sys.modules or importlib.util.find_spec("torch") is not None
        recorder.add("python", sys.executable, has_torch)
