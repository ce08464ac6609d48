"""The event file of a process, and the state that its hooks share."""

from __future__ import annotations

import atexit
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

_EVERY = 0.5
"""Seconds between two writes to the file."""

_MOST = 4_096
"""Events that wait to be written."""

_SHARE = 0.012
"""The share of the run's time that may be spent on looking into batches."""

_FREE = 0.2
"""Seconds that may be spent on it in any case."""

clock = time.monotonic
"""Seconds, the same in all processes of a machine."""


class Recorder:
    """Writes events of this process to a file; a forked process begins its own.

    Args:
        folder: The folder of the files of all processes.
        options: When to end the run; see `after_update`.
    """

    def __init__(self, folder: Path, options: dict[str, Any]) -> None:
        self._folder, self.options = folder, options
        self._events: list[list[Any]] = []
        self._written = self._begun = clock()
        self._spent = 0.0
        self._noted: set[str] = set()
        self.pending: list[Any] = []  # losses on a device, which are read when events are written
        self.num_updates = 0
        self._saved_at: int | None = None
        atexit.register(self.flush)
        os.register_at_fork(after_in_child=self._restart)

    @classmethod
    def of_environment(cls) -> Recorder:
        """Make the recorder that the environment describes."""
        options = json.loads(os.environ.get("BATCHWRIGHT_DOCTOR_OPTIONS") or "{}")
        return cls(Path(os.environ["BATCHWRIGHT_DOCTOR"]), options)

    @property
    def is_on(self) -> bool:
        """Whether this process may train, and does not load data for another."""
        return not _is_worker()

    def _restart(self) -> None:
        """Start again in a forked process: events of the parent are in the parent's file."""
        self._events, self.pending = [], []
        self.num_updates, self._saved_at = 0, None

    def add(self, kind: str, *facts: Any) -> None:
        """Record an event."""
        self._events.append([kind, *facts])
        if len(self._events) >= _MOST or clock() - self._written > _EVERY:
            self.flush()

    def flush(self) -> None:
        """Write what was recorded."""
        if not self.is_on:
            return
        self._written = clock()
        pending, self.pending = self.pending, []
        for read in pending:
            self.guarded(read)
        events, self._events = self._events, []
        if events:
            lines = "".join(f"{json.dumps(each)}\n" for each in events)
            path = self._folder / f"{os.getpid()}.jsonl"
            with suppress(OSError), path.open("a", encoding="utf-8") as file:
                file.write(lines)  # unless the folder is gone

    def guarded(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """Call one of our functions; its errors must not reach the run."""
        try:
            return call(*arguments)
        except Exception as error:  # noqa: BLE001 -- a check never breaks what it checks
            name = getattr(call, "__name__", "a hook")
            if name not in self._noted:
                self._noted.add(name)
                self._events.append(["note", f"{name}: {type(error).__name__}: {error}"])
            return None

    def looking(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """Look into a batch, if there is time left for that; see `_SHARE`."""
        start = clock()
        if self._spent > _FREE + _SHARE * (start - self._begun):
            return None
        try:
            return self.guarded(call, *arguments)
        finally:
            self._spent += clock() - start

    def saved(self, file: str | None) -> None:
        """Record that a checkpoint was written, with its file if that is known."""
        if self._saved_at is None:
            self._saved_at = self.num_updates
        self.add("save", self.num_updates, file)

    def after_update(self) -> None:
        """End or kill the run if it has made as many updates as were asked for."""
        number, options = self.num_updates, self.options
        kill = options.get("kill")
        if kill is None and options.get("kill_after_save") is not None:
            kill = None if self._saved_at is None else self._saved_at + options["kill_after_save"]
        if kill is not None and number >= kill:
            self._end("killed", kill=True)
        if options.get("updates") is not None and number >= options["updates"]:
            self._end("updates")
        if "kill" in options or "kill_after_save" in options:
            self.flush()  # another rank may be killed first, and the launcher then kills this one

    def before_pass(self, complete: int) -> None:
        """End the run if it has made as many passes of the training loader as were asked for."""
        if self.options.get("epochs") is not None and complete >= self.options["epochs"]:
            self._end("epochs")

    def _end(self, reason: str, *, kill: bool = False) -> None:
        self.add("end", reason)
        self.flush()
        sys.stdout.flush()
        sys.stderr.flush()
        if kill:
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(0)  # what follows a run, such as saving a model, must not happen


def _is_worker() -> bool:
    """Return whether this process loads data for another."""
    module = sys.modules.get("torch.utils.data._utils.worker")
    return module is not None and module.get_worker_info() is not None
