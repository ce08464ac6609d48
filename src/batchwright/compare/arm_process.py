"""An arm in a process of its own, which reads the task itself and computes when it is asked.

Arms of one process share what libraries keep for each shape of tensors, which the first arm to meet
a shape has to wait for. Processes are started anew, not forked: forks of a process with threads may
hang.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from typing import IO, Any, NoReturn

import torch

from batchwright.compare.arm import RaceArm
from batchwright.compare.arm_server import GRACE, Beginning, Entry, loaded, saved
from batchwright.compare.probes import Facts
from batchwright.compare.strategy import DENSE, Strategy
from batchwright.compare.task import Task
from batchwright.compare.task_file import shown
from batchwright.errors import TaskError
from batchwright.lengths import fingerprint
from batchwright.typing import State

_BEGIN = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop()); "
    "from batchwright.compare.arm_server import serve; serve()"
)

_ENVIRONMENT = {
    # Threads that wait for more than microseconds let others have their core.
    "GOMP_SPINCOUNT": "30000",
    "KMP_BLOCKTIME": "1",
    # Sets have the same sequence in every process.
    "PYTHONHASHSEED": "0",
}

_LOOK = 1.0
"""Seconds after which an arm that has not answered is looked at: it may have been killed."""


class ElsewhereError(Exception):
    """The traceback of an error in another process, as its cause."""


class ArmProcess(RaceArm):
    """An arm that computes in a process of its own; see `started`."""

    def __init__(self, strategy: Strategy, *, dense: bool, folder: str) -> None:
        super().__init__(DENSE if dense else strategy.name, dense=dense)
        options = [f"-W{each}" for each in sys.warnoptions]
        own: dict[str, Any] = {"start_new_session": True}  # without the terminal's Ctrl-C
        if sys.platform == "win32":
            own = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        self._mode = ""
        self._process = subprocess.Popen(  # noqa: S603 -- this interpreter, and code from above
            [sys.executable, *options, "-c", _BEGIN, json.dumps([*map(str, sys.path)])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=_ENVIRONMENT | os.environ,
            cwd=folder,  # which the task may have changed
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

    def state_dict(self) -> State | None:
        """Return everything needed to resume: tensors, numbers, and lists and dicts of them.

        None: the model or the optimizer holds what cannot be read again.
        """
        state = loaded(self._ask("state_dict"))
        return None if state is None else state | self.record()

    def load_state_dict(self, state: State) -> None:
        """Resume from the state of an arm of the same task, strategy and seed."""
        self._mode = str(self._ask("load_state_dict", saved(state)))
        self.restore(state)

    def release(self) -> None:
        """Let the process end; `close` waits for it."""
        with suppress(OSError):
            self._commands.close()

    def close(self, *, at_once: bool = False) -> None:
        """End the process: after some seconds, or at once."""
        self.release()
        try:
            self._process.wait(timeout=0 if at_once else GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if sys.platform != "win32":  # what it has started, and left
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
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
    path, quick, folder = task.origin
    scores, threads = task.computed_scores(), torch.get_num_threads()
    arms: list[ArmProcess] = []
    try:
        for strategy, dense in entries:
            arms.append(ArmProcess(strategy, dense=dense, folder=folder))
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
        f"{shown(path)}: each arm reads the task in a process of its own, and their {what} differ. "
        f"Does it draw {draws}? Give the generator a fixed seed. Does it use the sequence of a "
        "set? Sort it."
    )
