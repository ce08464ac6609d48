"""An arm in a process of its own, which reads the task itself and computes when it is asked.

Arms of one process share what libraries keep for each shape of tensors, which the first arm to meet
a shape has to wait for. Processes are started anew, not forked: forks of a process with threads may
hang.
"""

from __future__ import annotations

import atexit
import io
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from multiprocessing.connection import wait
from queue import SimpleQueue
from typing import IO, Any, NoReturn

import numpy as np
import numpy.typing as npt
import torch

from batchwright.compare.arm import Arm, RaceArm, Spent
from batchwright.compare.probes import Facts
from batchwright.compare.strategy import DENSE, Strategy
from batchwright.compare.task import Task
from batchwright.compare.task_file import errors_of_task, load_task
from batchwright.errors import TaskError
from batchwright.lengths import fingerprint
from batchwright.torch.data.trees import tensors_of
from batchwright.torch.update.out_of_memory import is_out_of_memory
from batchwright.typing import State

_BEGIN = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop()); "
    "from batchwright.compare.arm_process import serve; serve()"
)

_SLEEPY = {
    # Threads that wait for more than microseconds let others have their core.
    "GOMP_SPINCOUNT": "30000",
    "KMP_BLOCKTIME": "0",
    # Sets have the same sequence in every process.
    "PYTHONHASHSEED": "0",
}

_PROBES = 8
"""Samples that have to be equal in all processes."""

_GRACE = 5.0
"""Seconds that a process has to end by itself."""

_LOOK = 1.0
"""Seconds after which an arm that has not answered is looked at: it may have been killed."""


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


class ElsewhereError(Exception):
    """The traceback of an error in another process, as its cause."""


class ArmProcess(RaceArm):
    """An arm that computes in a process of its own; see `started`."""

    def __init__(self, strategy: Strategy, *, dense: bool) -> None:
        super().__init__(DENSE if dense else strategy.name, dense=dense)
        options = [f"-W{each}" for each in sys.warnoptions]
        own: dict[str, Any] = {"start_new_session": True}  # without the terminal's Ctrl-C
        if sys.platform == "win32":
            own = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        self._mode = ""
        self._process = subprocess.Popen(  # noqa: S603 -- this interpreter, and code from above
            [sys.executable, *options, "-c", _BEGIN, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=_SLEEPY | os.environ,
            **own,
        )
        if self._process.stdin is None or self._process.stdout is None:
            raise OSError("a process without pipes")
        self._commands: IO[bytes] = self._process.stdin
        self._answers: IO[bytes] = self._process.stdout

    @property
    def dispersion(self) -> float | None:
        """How unlike each other its updates are in length: see `PlanStats`."""
        return self.beginning.dispersion

    @property
    def mode(self) -> str:
        """The precision that it trains in."""
        return self._mode

    def begin(self, entry: Entry) -> None:
        """Let it make its arm; `wait_until_begun` before anything else is asked."""
        self._send(entry)

    def wait_until_begun(self) -> None:
        """Take over how its arm begins."""
        self.beginning: Beginning = self._answer()
        self.updates_of_run = self.beginning.updates_of_run
        self.spent, self._mode = self.beginning.spent, self.beginning.mode

    def choose_precision(self, mode: str | None = None) -> None:
        """Replace the precision "auto" by the one that was measured earlier, or measure it now."""
        self._mode = str(self._ask("choose_precision", mode))

    def update(self) -> float:
        """Train one update, by the mean loss over all its batches; return its seconds."""
        seconds: float
        seconds, self.spent, self.loss = self._ask("update")
        return seconds

    def metric(self) -> float:
        """Measure the task's metric."""
        return float(self._ask("metric"))

    def peak(self) -> int | None:
        """Measure the memory of its largest batch: see `peak_bytes`."""
        peak: int | None = self._ask("peak")
        return peak

    def audit(self) -> Facts | None:
        """Audit its precision on a few more updates, which change it: see `audited`."""
        facts: Facts | None = self._ask("audit")
        return facts

    def state_dict(self) -> State:
        """Return everything needed to resume: tensors, numbers, and lists and dicts of them."""
        return _loaded(self._ask("state_dict")) | self.record()

    def load_state_dict(self, state: State) -> None:
        """Resume from the state of an arm of the same task, strategy and seed."""
        self._mode = str(self._ask("load_state_dict", _saved(state)))
        self.restore(state)

    def release(self) -> None:
        """Let the process end; `close` waits for it."""
        with suppress(OSError):
            self._commands.close()

    def close(self, *, at_once: bool = False) -> None:
        """End the process: after some seconds, or at once."""
        self.release()
        try:
            self._process.wait(timeout=0 if at_once else _GRACE)
        except subprocess.TimeoutExpired:
            if sys.platform == "win32":
                self._process.kill()
            else:  # what it has started, too
                with suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._answers.close()

    def _ask(self, command: str, *arguments: object) -> Any:
        self._send((command, arguments))
        return self._answer()

    def _send(self, message: object) -> None:
        try:
            pickle.dump(message, self._commands)
            self._commands.flush()
        except OSError:
            self._raise_why_it_ended()

    def _answer(self) -> Any:
        # Processes that it has started may keep its pipe open after its end.
        while sys.platform != "win32" and not wait([self._answers.fileno()], _LOOK):
            if self._process.poll() is not None and not wait([self._answers.fileno()], 0):
                self._raise_why_it_ended()
        try:
            answer = pickle.load(self._answers)  # noqa: S301 -- of our own process
        except (EOFError, pickle.UnpicklingError):  # cut short
            self._raise_why_it_ended()
        for message, category in answer.warned:
            warnings.warn(message, category, stacklevel=4)
        if answer.error is not None:
            raise answer.error from ElsewhereError(f"\n{answer.trace}")
        return answer.value

    def _raise_why_it_ended(self) -> NoReturn:
        code = self._process.wait()
        said = f"ended with exit code {code}: the task, or a library, has ended it"
        if code < 0:
            said = f"was ended by signal {-code} ({signal.strsignal(-code)})"
        if -code == signal.SIGKILL:
            said += (
                ", most likely because memory ran out: each arm holds the data. Compare fewer "
                "strategies, or let all share a process: --shared-process"
            )
        raise TaskError(f"the process of the arm {self.name!r} {said}.") from None


def can_start(task: Task, strategies: Sequence[Strategy]) -> bool:
    """Return whether arms can have processes of their own.

    The task has to be from a file, and the strategies have to be pickled, without what the main
    module defines.
    """
    if task.origin is None:
        return False
    try:
        return b"__main__" not in pickle.dumps(list(strategies))
    except (pickle.PicklingError, TypeError, AttributeError):
        return False


def started(
    task: Task, entries: Sequence[tuple[Strategy, bool]], *, seed: int
) -> Sequence[ArmProcess]:
    """Start a process for each strategy, dense or not, all at once; wait until all have begun.

    Raises:
        TaskError: If the task cannot be read, or if processes differ in data or in weights.
    """
    if task.origin is None:
        raise TaskError("the task is from no file: its arms cannot have processes of their own.")
    (path, quick), scores, threads = task.origin, task.computed_scores(), torch.get_num_threads()
    arms: list[ArmProcess] = []
    try:
        for strategy, dense in entries:
            arms.append(ArmProcess(strategy, dense=dense))
        for arm, (strategy, dense) in zip(arms, entries, strict=True):
            arm.begin(Entry(path, quick, task.batch_size, strategy, seed, dense, threads, scores))
        for arm in arms:
            arm.wait_until_begun()
        _refuse_differences(path, task, [each.beginning for each in arms])
    except BaseException:
        close_all(arms, at_once=True)
        raise
    return arms


def close_all(arms: Sequence[ArmProcess], *, at_once: bool = False) -> None:
    """End the processes of all arms."""
    for arm in arms:
        arm.release()
    for arm in arms:
        arm.close(at_once=at_once)


def _refuse_differences(path: str, task: Task, found: Sequence[Beginning]) -> None:
    if {each.lengths for each in found} != {fingerprint(task.sizes)}:
        what, draws = "lengths", "samples at random"
    elif len({each.samples for each in found}) > 1:
        what, draws = "samples", "them at random"
    elif len({each.weights for each in found}) > 1:
        what, draws = "first weights", "them from another generator than torch's"
    else:
        return
    raise TaskError(
        f"{path}: each arm reads the task in a process of its own, and their {what} differ. Does "
        f"it draw {draws}? Give the generator a fixed seed. Does it use the sequence of a set? "
        "Sort it."
    )


def serve() -> None:
    """Be an arm: answer what standard input asks until it ends."""
    commands: SimpleQueue[Any] = SimpleQueue()
    with os.fdopen(os.dup(0), "rb") as asked, os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)  # what the task prints must not be taken for an answer
        threading.Thread(target=_read, args=(asked, commands), daemon=True).start()
        warned: list[tuple[str, type[Warning]]] = []
        warnings.showwarning = lambda message, category, *_, **__: warned.append(
            (str(message), category if _is_known(category) else UserWarning)
        )
        entry, able = commands.get(), _Able()

        def answer(command: str, arguments: Sequence[object]) -> None:
            try:
                with errors_of_task(entry.path):
                    said = Answer(getattr(able, command)(*arguments), warned=tuple(warned))
            except BaseException as error:  # noqa: BLE001 -- raised again by the other process
                trace = "".join(traceback.format_exception(error))
                said = Answer(error=_portable(_advised(error)), trace=trace)
            warned.clear()
            answers.write(pickle.dumps(said))
            answers.flush()

        with suppress(BrokenPipeError):
            command = ("begin", (entry,)) if entry is not None else None
            while command is not None:
                answer(*command)
                command = commands.get()
    # What the task has left to do at exit, and not the rest, which takes long.
    atexit._run_exitfuncs()  # noqa: SLF001
    os._exit(0)


class _Able:
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
        return _saved(self.arm.state_dict())

    def load_state_dict(self, content: bytes) -> str:
        self.arm.load_state_dict(_loaded(content))
        return self.arm.mode


def _read(asked: IO[bytes], commands: SimpleQueue[Any]) -> None:
    """Pass commands on until there will be none any more, and then end, whatever is computed."""
    with suppress(EOFError):
        while True:
            commands.put(pickle.load(asked))  # noqa: S301 -- of the process that started this one
    commands.put(None)
    time.sleep(_GRACE)
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


def _saved(state: State) -> bytes:
    """Write tensors as bytes: pickled ones would share memory with another process."""
    written = io.BytesIO()
    torch.save(state, written)
    return written.getvalue()


def _loaded(content: bytes) -> State:
    state: State = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    return state
