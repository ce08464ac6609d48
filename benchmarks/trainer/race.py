"""One seed of one job: all arms at once, each in a process of its own, taking turns."""

import contextlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.trainer.setting import Setting

WORKER = Path(__file__).with_name("worker.py")

ARMS = ("trainer", "trainer, safe", "planned", "dense limit")

EVALUATIONS = 20
"""During a run, at equal shares of its updates."""

LONGER = 0.5
"""An arm that ends above Trainer's final loss may go on for this share of the run."""

Row = dict[str, Any]


class ArmError(Exception):
    """An arm ended before its time; says why in a line."""


class ArmProcess:
    """The near end of a worker.

    Args:
        python: The interpreter that has the frameworks.
        arm: Which one.
        setting: What all arms share, as JSON has it.
        log: Where its standard error goes.
        worker: The script that trains.
    """

    def __init__(
        self, python: Path, arm: str, setting: Mapping[str, Any], log: Path, worker: Path = WORKER
    ) -> None:
        self.arm = arm
        self.evaluations: list[dict[str, float]] = []
        self.clock: dict[str, float] = {}
        folders = (machine.REPOSITORY / name for name in ("src", "examples/applications", "."))
        quiet = {"PYTHONWARNINGS": "ignore", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "0"}
        self._log = log
        with log.open("a", encoding="utf-8") as errors:
            self._process = subprocess.Popen(
                [str(python), str(worker), arm, json.dumps(setting)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=os.environ | quiet | {"PYTHONPATH": os.pathsep.join(map(str, folders))},
            )

    def ready(self) -> dict[str, float]:
        """Wait until it can train; return what it said of itself."""
        return self._answer()

    def train(self, updates: int) -> None:
        """Make some updates."""
        if updates:
            self.clock = self._ask(f"go {updates}")

    def evaluate(self) -> float:
        """Measure the validation loss, and remember it with what was spent until then."""
        loss = self._ask("evaluate")["loss"]
        figures = {name: self.clock[name] for name in ("seconds", "tokens", "updates")}
        self.evaluations.append({**figures, "loss": loss})
        return loss

    def end(self) -> None:
        """Let it go, however far it is."""
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _ask(self, request: str) -> dict[str, float]:
        try:
            self._process.stdin.write(request + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer tells
        return self._answer()

    def _answer(self) -> dict[str, float]:
        line = self._process.stdout.readline()
        if not line:
            last = self._log.read_text(encoding="utf-8").strip().splitlines()[-1:]
            raise ArmError(f"{self.arm} ended: {' '.join(last)}")
        return json.loads(line)


@contextlib.contextmanager
def processes(python: Path, setting: Setting, folder: Path) -> Iterator[list[ArmProcess]]:
    """Start a process for each arm."""
    arms = [
        ArmProcess(python, arm, asdict(setting), folder / f"arm-{place}.log")
        for place, arm in enumerate(ARMS)
    ]
    try:
        yield arms
    finally:
        for arm in arms:
            arm.end()


def race(
    python: Path, setting: Setting, folder: Path, *, advance: Callable[[], object]
) -> list[Row]:
    """Train all arms on the same samples once, taking turns; then let slower learners go on.

    Args:
        python: The interpreter that has the frameworks.
        setting: What all arms share.
        folder: Where logs may be written.
        advance: Called after each turn of all, `EVALUATIONS` times.

    Returns:
        A row of figures for each arm.

    Raises:
        ArmError: If an arm fails.
    """
    with processes(python, setting, folder) as arms:
        facts = {arm.arm: arm.ready() for arm in arms}
        for turn in range(EVALUATIONS):
            for arm in arms:
                total = int(facts[arm.arm]["updates"])
                edges = np.linspace(0, total, EVALUATIONS + 1).round().astype(int)
                updates = int(edges[turn + 1] - edges[turn])
                if arm.arm == "dense limit":  # it only shows its speed
                    arm.train(-(-updates // 3))
                    continue
                arm.train(updates)
                arm.evaluate()
            advance()
        rows = [_row(arm, facts[arm.arm], setting) for arm in arms]
        target = rows[0]["loss"]
        for arm, row in zip(arms, rows, strict=True):
            if row["loss"] is not None:
                go_on(arm, target, int(facts[arm.arm]["updates"]))
                row["evaluations"] = arm.evaluations
                row["seconds_to_loss"] = seconds_to(arm.evaluations, target)
        return rows


def go_on(arm: ArmProcess, target: float, updates: int) -> None:
    """Let an arm that has not reached a loss train for some more turns."""
    steps = EVALUATIONS * LONGER
    while min(each["loss"] for each in arm.evaluations) > target and steps > 0:
        arm.train(max(1, updates // EVALUATIONS))
        arm.evaluate()
        steps -= 1


def _row(arm: ArmProcess, facts: Mapping[str, float], setting: Setting) -> Row:
    clock = arm.clock
    return {
        "arm": arm.arm,
        "accumulate": facts["accumulate"],
        "updates": clock["updates"],
        "tokens": clock["tokens"],
        "seconds": clock["seconds"],
        "at_work": min(1.0, clock["seconds"] / clock["wall"]),
        "tokens_per_second": clock["tokens"] / clock["seconds"],
        "padding": 1 - clock["tokens"] / clock["padded_tokens"],
        "worst_batch": clock["worst_batch"] / setting.max_tokens,
        "peak_bytes": clock["growth"],
        "loss": arm.evaluations[-1]["loss"] if arm.evaluations else None,
    }


def seconds_to(evaluations: list[dict[str, float]], target: float) -> float | None:
    """Say when a loss was first reached, between evaluations in proportion; None if never.

    Example:
        >>> seconds_to([{"seconds": 10, "loss": 5.0}, {"seconds": 20, "loss": 4.0}], 4.5)
        15.0
    """
    before: dict[str, float] | None = None
    for each in evaluations:
        if each["loss"] <= target:
            if before is None:
                return float(each["seconds"])
            share = (before["loss"] - target) / (before["loss"] - each["loss"])
            return before["seconds"] + share * (each["seconds"] - before["seconds"])
        before = each
    return None
