"""What the process of an arm does: it reads the task, makes its arm, and answers what it is asked.

`ArmProcess` is the other end.
"""

from __future__ import annotations

import atexit
import io
import os
import pickle
import random
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from queue import SimpleQueue
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import torch

from batchwright.compare.arm import Arm, Spent
from batchwright.compare.probes import Facts
from batchwright.compare.strategy import Strategy
from batchwright.compare.task import Task
from batchwright.compare.task_file import errors_of_task, load_task
from batchwright.errors import TaskError
from batchwright.lengths import fingerprint
from batchwright.torch.data.trees import tensors_of
from batchwright.torch.update.out_of_memory import is_out_of_memory
from batchwright.typing import State

GRACE = 5.0
"""Seconds that a process has to end by itself."""

_PROBES = 8
"""Samples that have to be equal in all processes."""


@dataclass(frozen=True)
class Entry:
    """What a process is given first: the arm that it has to be."""

    path: str  # of the task
    quick: bool
    batch_size: int | None  # of the task, perhaps in place of the one in the file
    strategy: Strategy
    seed: int
    dense: bool
    threads: int
    scores: Mapping[str, tuple[npt.ArrayLike, float]]  # of difficulties, with their seconds


@dataclass(frozen=True)
class Beginning:
    """What a process answers first: how its arm begins."""

    lengths: str  # fingerprint
    samples: str  # digest of some
    weights: str  # digest of all
    updates_of_run: int
    dispersion: float | None
    spent: Spent
    mode: str


@dataclass(frozen=True)
class Answer:
    """What a process answers: a value, or an error with its traceback."""

    value: Any = None
    error: BaseException | None = None
    trace: str = ""
    warned: tuple[tuple[str, type[Warning]], ...] = ()


def serve() -> None:
    """Be an arm: answer what standard input asks until it ends."""
    commands: SimpleQueue[Any] = SimpleQueue()
    with (
        suppress(BrokenPipeError),
        os.fdopen(os.dup(0), "rb") as asked,
        os.fdopen(os.dup(1), "wb") as answers,
    ):
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)  # what the task prints must not be taken for an answer
        threading.Thread(target=_read, args=(asked, commands), daemon=True).start()
        warned: list[tuple[str, type[Warning]]] = []
        warnings.showwarning = lambda message, category, *_, **__: warned.append(
            (str(message), category if _is_known(category) else UserWarning)
        )
        entry, known = commands.get(), _Commands()

        def answer(command: str, arguments: Sequence[object]) -> None:
            try:
                with errors_of_task(entry.path):
                    said = Answer(getattr(known, command)(*arguments), warned=tuple(warned))
            except BaseException as error:  # noqa: BLE001 -- raised again by the other process
                trace = "".join(traceback.format_exception(error))
                said = Answer(error=_portable(_advised(error)), trace=trace)
            warned.clear()
            answers.write(pickle.dumps(said))
            answers.flush()

        command = ("begin", (entry,)) if entry is not None else None
        while command is not None:
            answer(*command)
            command = commands.get()
    # What the task has left to do at exit, and not the rest, which takes long.
    atexit._run_exitfuncs()  # noqa: SLF001
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _end_others(signal.SIGTERM)
    os._exit(0)


def _end_others(number: signal.Signals) -> None:
    """Send a signal to this process and to what the task has started, where these are a group."""
    if sys.platform != "win32" and os.getpgrp() == os.getpid():
        os.killpg(0, number)


class _Commands:
    """What the process of an arm can be asked for, by name."""

    arm: Arm

    def begin(self, entry: Entry) -> Beginning:
        torch.set_num_threads(entry.threads)
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002 -- the one that a task may use
        torch.manual_seed(0)
        with _silence(), warnings.catch_warnings():
            # The process that asks has read the task, too, and shown what it says.
            warnings.showwarning = lambda *_, **__: None
            task = load_task(entry.path, quick=entry.quick)
        if entry.batch_size is not None:
            task = task.with_batch_size(entry.batch_size)
        task.take_scores(entry.scores)
        samples = _digest(_some_samples(task))
        arm = Arm(task, entry.strategy, seed=entry.seed, dense=entry.dense)
        self.arm = arm
        weights = _digest(arm.model.state_dict())
        lengths = fingerprint(task.sizes)
        return Beginning(
            lengths, samples, weights, arm.updates_of_run, arm.dispersion, arm.spent, arm.mode
        )

    def choose_precision(self, mode: str | None) -> str:
        self.arm.choose_precision(mode)
        return self.arm.mode

    def update(self) -> tuple[float, Spent, float]:
        return self.arm.update(), self.arm.spent, self.arm.loss

    def metric(self) -> float:
        return self.arm.metric()

    def peak(self) -> int | None:
        return self.arm.peak()

    def audit(self) -> Facts | None:
        return self.arm.audit()

    def state_dict(self) -> bytes:
        return saved(self.arm.state_dict())

    def load_state_dict(self, content: bytes) -> str:
        self.arm.load_state_dict(loaded(content) or {})
        return self.arm.mode


def _read(asked: IO[bytes], commands: SimpleQueue[Any]) -> None:
    """Pass commands on until there will be none any more, and then end, whatever is computed."""
    with suppress(EOFError):
        while True:
            commands.put(pickle.load(asked))  # noqa: S301 -- of the process that started this one
    commands.put(None)
    time.sleep(GRACE)
    if sys.platform != "win32":
        _end_others(signal.SIGKILL)
    os._exit(1)


@contextmanager
def _silence() -> Iterator[None]:
    """Discard what is printed, by libraries too."""
    kept, nowhere = [os.dup(1), os.dup(2)], os.open(os.devnull, os.O_WRONLY)
    try:
        for place in (1, 2):
            os.dup2(nowhere, place)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for place, before in zip((1, 2), kept, strict=True):
            os.dup2(before, place)
            os.close(before)
        os.close(nowhere)


def _advised(error: BaseException) -> BaseException:
    """Say more of memory that ran out beside other arms."""
    if not is_out_of_memory(error) or isinstance(error, MemoryError):
        return error
    return TaskError(
        f"{error} Other arms hold memory as well. Compare fewer strategies, or let all share a "
        "process: --shared-process."
    )


def _portable(error: BaseException) -> BaseException:
    """Return the error, or one that says the same and that another process can make again."""
    with suppress(Exception):
        if _is_known(type(error)) and type(pickle.loads(pickle.dumps(error))) is type(error):  # noqa: S301 -- from above
            return error
    return RuntimeError(f"{type(error).__name__}: {error}")


def _is_known(kind: type) -> bool:
    """Return whether another process knows a class: it is neither the task's nor of a function."""
    return getattr(sys.modules.get(kind.__module__), kind.__qualname__, None) is kind


def _some_samples(task: Task) -> object:
    size = len(task.samples)
    chosen = np.linspace(0, size - 1, min(_PROBES, size)).astype(int).tolist()
    return task.collate([task.samples[index] for index in chosen])


def _digest(value: object) -> str:
    """Hash all tensors of a value. Empty: some cannot be read."""
    hashed = sha256()
    try:
        for tensor in tensors_of(value):
            flat = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
            hashed.update(f"{tensor.dtype} {list(tensor.shape)}".encode())
            hashed.update(flat.numpy().data)
    except (RuntimeError, TypeError, NotImplementedError):
        return ""
    return hashed.hexdigest()


def saved(state: State) -> bytes:
    """Write tensors as bytes: pickled ones would share memory with another process."""
    written = io.BytesIO()
    torch.save(state, written)
    return written.getvalue()


def loaded(content: bytes) -> State | None:
    """Read what `saved` wrote, on the CPU. None: it holds more than tensors and numbers."""
    try:
        state: State = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except pickle.UnpicklingError:
        return None
    return state
