"""Taking turns with other processes: updates are made when they are asked for."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO


@dataclass
class Clock:
    """What an arm spends, and what it makes of it.

    Attributes:
        seconds: Of the processor, while it trains.
        wall: By the clock on the wall.
        updates: How many there were.
        tokens: Real tokens trained on, of all columns.
        padded_tokens: The same, padding included.
        worst_batch: Tokens of the largest batch, padding included.
        growth: Bytes that the process peaked at, above what it held before the first update.
    """

    seconds: float = 0.0
    wall: float = 0.0
    updates: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    worst_batch: int = 0
    growth: int = 0

    def count(self, tokens: int, padded_tokens: int) -> None:
        """Note a batch."""
        self.tokens += tokens
        self.padded_tokens += padded_tokens
        self.worst_batch = max(self.worst_batch, padded_tokens)


class Turns:
    """The requests of whoever started this process, and the clock that runs between them.

    ``go N`` makes N updates, ``evaluate`` measures the validation loss off the clock; each is
    answered by a line of JSON.
    """

    def __init__(self, answers: TextIO) -> None:
        self.clock = Clock()
        self._answers = answers

    def ready(self, **facts: int) -> None:
        """Tell that training can begin."""
        self._tell(facts)

    def taken(self, evaluate: Callable[[], float]) -> Iterator[None]:
        """Yield before each update that is to be made; end when there are to be no more."""
        held = _forget_peak()
        for line in sys.stdin:
            request, _, number = line.strip().partition(" ")
            if request == "go":
                started, wall = time.process_time(), time.perf_counter()
                for _ in range(int(number)):
                    yield
                    self.clock.updates += 1
                self.clock.seconds += time.process_time() - started
                self.clock.wall += time.perf_counter() - wall
                self.clock.growth = max(self.clock.growth, _status("VmHWM") - held)
                self._tell(asdict(self.clock))
            elif request == "evaluate":
                self._tell({"loss": evaluate()})
                _forget_peak()  # of the evaluation
            else:
                return

    def _tell(self, answer: object) -> None:
        self._answers.write(json.dumps(answer) + "\n")
        self._answers.flush()


def _forget_peak() -> int:
    """Forget how much memory this process once took, and return what it takes now, in bytes."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status("VmRSS")


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise LookupError(name)
