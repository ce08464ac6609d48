"""The near end of a worker: requests out, answers in, and a clock that ends it."""

import contextlib
import json
import os
import select
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import numpy as np

WORKER = Path(__file__).with_name("worker.py")


class PeerError(Exception):
    """A peer could not be run; says why in a line."""


class TooSlowError(PeerError):
    """A peer was ended because it took too long."""


class Session:
    """A worker process with one planner in it.

    Args:
        python: The interpreter of its environment.
        adapter: The adapter's file.
        log: Where its standard error goes.
        path: A folder of packages besides those of the environment.
        variables: Of its environment.
    """

    def __init__(
        self,
        python: Path | str,
        adapter: Path,
        log: Path,
        *,
        path: Path | None = None,
        variables: Mapping[str, str] | None = None,
    ):
        self._adapter = adapter
        self._log = log.open("a", encoding="utf-8")
        quiet = {
            "PYTHONWARNINGS": "ignore",
            "TQDM_DISABLE": "1",
            "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        self._process = subprocess.Popen(
            [str(python), "-P", str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=log.parent,
            # Compiling is allowed: what is timed is not an import.
            env=os.environ
            | quiet
            | {"PYTHONPATH": "" if path is None else str(path)}
            | dict(variables or {}),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._stdin, self._stdout, self._log):
            with contextlib.suppress(BrokenPipeError):  # what was not read yet need not be
                pipe.close()

    def prepare(self, lengths: Path, setting: Mapping[str, object], *, limit: float) -> dict:
        """Load the planner and the lengths; return the versions.

        Raises:
            PeerError: If the planner does not import or refuses the lengths.
        """
        return self._ask(
            limit, do="prepare", adapter=str(self._adapter), lengths=str(lengths), setting=setting
        )

    def plan(self, turn: int, *, limit: float, keep: Path | None = None) -> dict:
        """Plan once; return the seconds (wall and processor) and the bytes that it took.

        Args:
            turn: Number of the round, which seeds the plan.
            limit: Seconds after which the worker is ended.
            keep: Where the batches are written.

        Raises:
            PeerError: If it fails.
        """
        return self._ask(limit, do="plan", turn=turn, keep=None if keep is None else str(keep))

    def _ask(self, limit: float, **request: object) -> dict:
        try:
            self._stdin.write(json.dumps(request) + "\n")
            self._stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        deadline = time.monotonic() + limit
        while not select.select([self._stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
            if time.monotonic() >= deadline:
                raise TooSlowError(f"took more than {limit:.0f} s")
        line = self._stdout.readline()
        if not line:
            raise self._ended()
        answer = json.loads(line)
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer

    def _ended(self) -> PeerError:
        return PeerError(f"ended with exit code {self._process.wait()}")

    @property
    def _stdin(self) -> IO[str]:
        return self._process.stdin

    @property
    def _stdout(self) -> IO[str]:
        return self._process.stdout


def batches_of(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the indices and offsets that a worker kept."""
    with np.load(path) as arrays:
        return arrays["indices"], arrays["offsets"]
