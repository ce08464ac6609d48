"""Reads the event files of watched processes into the record of a run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from batchwright.doctor.records import (
    Backward,
    Batch,
    Column,
    Loader,
    Pass,
    Products,
    Rank,
    Run,
    Update,
)
from batchwright.typing import IntArray

_INDICES = 2**32
"""More samples than a data set has; hardly one in a billion hashes of contents is smaller."""

_NOWHERE = (-1, -1)
"""Update and place of a loss that is in no update."""

Event = list[Any]


@dataclass(frozen=True)
class Progress:
    """How far a run has come."""

    updates: int = 0  # of the rank with the most
    passes: int = 0  # begun, of the loader with the most
    processes: int = 0  # that have made an update


def progress(folder: Path) -> Progress:
    """Count what has been written so far, without making records of it."""
    updates = passes = processes = 0
    for path in sorted(folder.glob("*.jsonl")):
        own = 0
        with path.open(encoding="utf-8") as file:
            for line in file:
                own += line.startswith('["update"')
                if line.startswith('["pass"') and line.endswith("\n"):
                    passes = max(passes, json.loads(line)[2])
        updates = max(updates, own)
        processes += own > 0
    return Progress(updates, passes, processes)


def read_run(
    folder: Path,
    *,
    command: Sequence[str] = (),
    seconds: float = 0.0,
    exit_code: int | None = None,
    stopped: str = "run",
) -> Run:
    """Read what the processes of a run have written.

    Args:
        folder: Where their files are.
        command: The command that was run.
        seconds: How long it was watched.
        exit_code: Of the command. None: it was stopped.
        stopped: What ended it.

    Returns:
        The ranks that made updates, by number. A line that was cut off by the end of its process
        is left out.
    """
    found, notes = [], []
    pythons: dict[str, bool] = {}
    for path in sorted(folder.glob("*.jsonl")):
        story = _Story()
        for event in _events(path):
            story.tell(event)
        if story.updates:
            found.append(story.rank())
        notes += story.notes
        pythons |= story.pythons
    ranks = sorted(found, key=lambda each: each.rank)
    saves = tuple(sorted({save for each in ranks for save in each.saves}))
    return Run(
        ranks=tuple(replace(each, saves=saves) for each in ranks),
        command=tuple(command),
        seconds=seconds,
        exit_code=exit_code,
        stopped=stopped,
        notes=tuple(dict.fromkeys(notes)),
        without_torch=() if any(pythons.values()) else tuple(pythons),
    )


def _events(path: Path) -> Iterator[Event]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)


@dataclass
class _Pass:
    batches: list[Batch] = field(default_factory=list)
    is_complete: bool = False
    is_trained: bool = False
    is_hashed: bool = False  # whether samples are known by their content


@dataclass
class _Window:
    """What led to the next update."""

    batches: list[Batch] = field(default_factory=list)
    backwards: list[Backward] = field(default_factory=list)
    begins: list[float] = field(default_factory=list)  # times at which backward passes begin
    forward: float = 0.0
    is_stale: bool = False
    error: float | None = None
    computed: float | None = None
    late: int = 0  # losses before it that are read later


class _Story:
    """Puts the events of a process together, one after the other."""

    def __init__(self) -> None:
        self.updates: list[Update] = []
        self.notes: list[str] = []
        self.pythons: dict[str, bool] = {}  # interpreter → whether it has torch
        self._optimizers: dict[int, str] = {}
        self._steps: dict[int, int] = {}
        self._main = 0  # the optimizer whose steps are updates
        self._facts: dict[int, dict[str, Any]] = {}
        self._passes: dict[tuple[int, int], _Pass] = {}
        self._last: tuple[int, int] | None = None  # pass of the batch that was handed out last
        self._window = _Window()
        self._late: list[tuple[int, int]] = []  # update and place of losses that come later
        self._process: dict[str, Any] = {}
        self._products: Products | None = None
        self._saves: list[int] = []
        self._written: dict[str, int] = {}
        self._read: list[str] = []
        self._compiled = 0
        self._overhead: float | None = None
        self._ended = "run"
        self._time = 0.0

    def tell(self, event: Event) -> None:
        """Add an event."""
        kind, *facts = event
        tells = getattr(self, f"_{kind}_event", None)
        if tells is not None:
            tells(*facts)

    def _note_event(self, text: str) -> None:
        self.notes.append(text)

    def _python_event(self, executable: str, has_torch: bool) -> None:  # noqa: FBT001 -- as events have it
        self.pythons[executable] = has_torch

    def _optimizer_event(self, number: int, name: str) -> None:
        self._optimizers[number] = name

    def _main_event(self, number: int) -> None:
        self._main = number

    def _step_event(self, number: int) -> None:
        """Leave out the backward passes of an optimizer whose steps do not count as updates."""
        self._steps[number] = self._steps.get(number, 0) + 1
        window = self._window
        window.backwards, window.is_stale = [], False
        self._late[window.late :] = [_NOWHERE] * (len(self._late) - window.late)
        window.late = len(self._late)

    def _process_event(self, facts: dict[str, Any]) -> None:
        self._process = facts

    def _loader_event(self, number: int, facts: dict[str, Any]) -> None:
        self._facts[number] = facts

    def _pass_event(self, number: int, turn: int) -> None:
        self._passes[number, turn] = _Pass()

    def _whole_event(self, number: int, turn: int) -> None:
        if (number, turn) in self._passes:
            self._passes[number, turn].is_complete = True

    def _batch_event(  # noqa: PLR0917 -- in the sequence of the file
        self,
        number: int,
        turn: int,
        time: float,
        wait: float,
        samples: list[int] | None,
        hashes: list[int] | None,
        contents: dict[str, Any] | None,
    ) -> None:
        batch = _batch(time, wait, samples if samples is not None else hashes, contents or {})
        found = self._passes.setdefault((number, turn), _Pass())
        found.batches.append(batch)
        found.is_hashed = found.is_hashed or samples is None
        self._last, self._time = (number, turn), time
        self._window.batches.append(batch)

    def _backward_event(  # noqa: PLR0917 -- in the sequence of the file
        self,
        time: float,
        loss: float | str | None,
        reduction: str | None,
        factor: float | None,
        counted: int | None,
        scale: float | None,
        is_stale: bool | None,  # noqa: FBT001 -- in the sequence of the file
        part: float | None = None,
    ) -> None:
        if self._last is not None:
            self._passes[self._last].is_trained = True
        window = self._window
        if isinstance(loss, str):  # it is on a device, and read later
            loss = None
            self._late.append((len(self.updates), len(window.backwards)))
        by = scale or 1.0
        window.backwards.append(
            Backward(
                None if loss is None else loss / by,
                reduction,
                None if factor is None else factor / by,
                counted,
                part,
            )
        )
        window.forward += max(0.0, time - self._time)
        self._time = time
        window.is_stale = window.is_stale or bool(is_stale)

    def _computed_event(self, time: float) -> None:
        self._window.computed = time

    def _gradient_event(self, error: float) -> None:
        self._window.error = error

    def _update_event(  # noqa: PLR0917 -- in the sequence of the file
        self,
        time: float,
        was_skipped: bool,  # noqa: FBT001 -- in the sequence of the file
        scale: float | None,
        rate: float | None,
        peak: int,
        schedules: int,
        clips_scaled: bool,  # noqa: FBT001 -- in the sequence of the file
    ) -> None:
        window, self._window = self._window, _Window(late=len(self._late))
        self._steps[self._main] = self._steps.get(self._main, 0) + 1
        if self.updates:
            # Schedules move after the update that they belong to.
            self.updates[-1] = replace(self.updates[-1], schedules=schedules)
            start = self.updates[-1].end
        else:
            start = window.batches[0].time - window.batches[0].wait if window.batches else time
        self.updates.append(
            Update(
                batches=tuple(window.batches),
                backwards=tuple(window.backwards),
                start=start,
                end=time,
                forward=window.forward if window.backwards else None,
                was_skipped=was_skipped,
                loss_scale=scale,
                rate=rate,
                peak=peak,
                is_stale=window.is_stale,
                clips_scaled=clips_scaled,
                gradient_error=window.error,
                computed=window.computed,
            )
        )
        self._time = time

    def _loss_event(self, number: int, loss: float, counted: int | None) -> None:
        update, place = self._late[number]
        if (update, place) == _NOWHERE:
            return
        if update < len(self.updates):
            backwards = list(self.updates[update].backwards)
            backwards[place] = replace(backwards[place], loss=loss, counted=counted)
            self.updates[update] = replace(self.updates[update], backwards=tuple(backwards))
        elif place < len(self._window.backwards):
            known = self._window.backwards
            known[place] = replace(known[place], loss=loss, counted=counted)

    def _products_event(self, facts: dict[str, Any]) -> None:
        self._products = Products(**facts)

    def _overhead_event(self, seconds: float) -> None:
        self._overhead = seconds

    def _save_event(self, update: int, file: str | None) -> None:
        self._saves.append(update)
        if file is not None:
            self._written[file] = update

    def _read_event(self, file: str) -> None:
        self._read.append(file)

    def _compiled_event(self, count: int) -> None:
        self._compiled = count

    def _end_event(self, reason: str) -> None:
        self._ended = reason

    def rank(self) -> Rank:
        """Return what the process has done."""
        facts = self._process
        training = set(self._trained())
        handed = {id(batch) for loader in training for batch in loader.batches}
        updates = [
            replace(each, batches=tuple(batch for batch in each.batches if id(batch) in handed))
            for each in self.updates
        ]
        return Rank(
            rank=facts.get("rank", 0),
            world_size=facts.get("world_size", 1),
            loaders=(*training, *self._others()),
            updates=tuple(updates),
            products=self._products,
            overhead=self._overhead,
            device=facts.get("device", "cpu"),
            fast_formats=tuple(facts.get("fast_formats", ())),
            compiles=self._compiled > 0,
            num_compilations=self._compiled,
            saves=tuple(self._saves),
            written=self._written,
            read=tuple(dict.fromkeys(self._read)),
            ended=self._ended,
            framework=facts.get("framework", "torch"),
            optimizers=tuple(
                (self._optimizers.get(number, ""), steps)
                for number, steps in sorted(self._steps.items())
            ),
        )

    def _trained(self) -> Iterator[Loader]:
        """Yield the loaders that are trained on; one that is recreated in each epoch is one."""
        alike: dict[str, list[_Pass]] = {}
        for (number, _), each in self._passes.items():
            if each.is_trained:
                alike.setdefault(json.dumps(self._facts.get(number, {})), []).append(each)
        for key, passes in alike.items():
            yield _loader(json.loads(key), passes, trains=True)

    def _others(self) -> Iterator[Loader]:
        for number, facts in self._facts.items():
            passes = [each for (own, _), each in self._passes.items() if own == number]
            if passes and not any(each.is_trained for each in passes):
                yield _loader(facts, passes, trains=False)


def _loader(facts: dict[str, Any], passes: Sequence[_Pass], *, trains: bool) -> Loader:
    whole = facts.get("num_batches")
    made = tuple(
        Pass(tuple(each.batches), each.is_complete or len(each.batches) == whole) for each in passes
    )
    # What a sampler yields need not be indices: names are hashed to 62 bits.
    most = facts.get("num_samples") or _INDICES
    largest = max((each.samples.max(initial=-1) for each in made), default=-1)
    has_indices = largest < most and not any(each.is_hashed for each in passes)
    return Loader(passes=made, trains=trains, has_indices=has_indices, **facts)


def _batch(time: float, wait: float, samples: list[int] | None, contents: dict[str, Any]) -> Batch:
    rows = contents.get("rows", len(samples) if samples is not None else 0)
    return Batch(
        samples=None if samples is None else np.asarray(samples, np.int64),
        rows=rows,
        width=contents.get("width", 1),
        lengths=_array(contents.get("lengths")),
        labels=_array(contents.get("labels")),
        time=time,
        wait=wait,
        counted_padding=contents.get("counted_padding", 0),
        is_packed=contents.get("packed", False),
        is_separated=contents.get("separated", True),
        name=contents.get("name", ""),
        others={
            name: Column(width, np.asarray(lengths, np.int64))
            for name, (width, lengths) in contents.get("others", {}).items()
        },
    )


def _array(values: list[int] | None) -> IntArray | None:
    return None if values is None else np.asarray(values, np.int64)
