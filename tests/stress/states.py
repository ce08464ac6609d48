"""Edit saved states at random: each is refused, or resumes exactly as it was saved.

Usage: python -m tests.stress.states [--jobs 20000] [--seed 0]

A job makes a sampler, its iterator, a stream or a `StreamDataset`, consumes part of it, edits the
state, and loads it into a new one. An edited state may only be refused by an error of this library
(before the first batch), or mean the same as the state that was saved: then the very same batches
follow. Half of the edits come with a checksum that fits, as somebody who knows how might write:
those too have to be refused or keep the promise that nothing comes twice in one pass, but they may
name another place. Ctrl-C prints what was seen so far.
"""

import argparse
import json
import signal
import sys
import time
import warnings
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

import batchwright as bw
from batchwright._states import sealed
from batchwright.torch import PlanBatchSampler, StreamDataset

SECONDS = 20
FEW = 12  # batches compared


class WrongStateError(AssertionError):
    """A state that was accepted, and is not the one that was saved."""


@dataclass(frozen=True)
class Saved:
    """A state, and how to go on with one."""

    kind: str
    state: dict[str, Any]
    go_on: Any
    rest: list[Any]


def check_job(seed: int) -> str:
    """Edit one state; return what became of it.

    Raises:
        WrongStateError: If it was accepted though it is another.
    """
    rng = np.random.default_rng(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        saved = _saved(rng)
        edited = _edited(json.loads(json.dumps(saved.state)), rng)
        is_sealed = rng.random() < 0.5
        if is_sealed and isinstance(edited, dict) and isinstance(edited.get("version"), int):
            edited = _sealed(edited)
        else:
            is_sealed = False
        return _loaded(saved, edited, is_sealed=is_sealed)


def _loaded(saved: Saved, edited: Any, *, is_sealed: bool) -> str:
    began = time.process_time()
    try:
        rest = saved.go_on(edited)
    except bw.BatchwrightError as error:
        if "\n" in str(error):
            raise WrongStateError(f"{saved.kind}: a message of several lines: {error}") from error
        return "refused"
    finally:
        seconds = time.process_time() - began
        if seconds > SECONDS:
            raise WrongStateError(f"{saved.kind}: {seconds:.0f} s of computing for {edited!r}")
    if rest == saved.rest:
        return "the same"
    if not is_sealed:
        raise WrongStateError(f"{saved.kind}: accepted, and it is another: {edited!r}")
    return "another place, with a checksum that fits"


def _saved(rng: np.random.Generator) -> Saved:
    kind = str(rng.choice(["sampler", "iterator", "plan", "stream", "stream data set"]))
    lengths = rng.integers(1, 30, int(rng.integers(20, 120)))
    batching = _batching(rng)
    seed, world_size, accumulate = (int(rng.integers(low, 4)) for low in (0, 1, 1))
    after = int(rng.integers(0, 6))
    if kind in {"stream", "stream data set"}:
        return _of_a_stream(kind, lengths, batching, seed, world_size, accumulate, after)
    order = [
        bw.Shuffle(),
        bw.Sequential(),
        bw.Mixture(np.arange(lengths.size) % 3, temperature=2.0),
    ]
    planner = bw.Planner(
        lengths,
        batching=batching,
        order=order[rng.integers(3)],
        seed=seed,
        accumulate=accumulate,
        last=str(rng.choice(["short", "repeat"])),
    )
    plans = planner(int(rng.integers(3))) if kind == "plan" else planner
    epoch = int(rng.integers(0, 3))
    others = int(rng.integers(1, 4))  # ranks that go on with it

    def sampler(size=world_size):
        made = PlanBatchSampler(plans, rank=size - 1, world_size=size)
        made.set_epoch(epoch)
        return made

    first = sampler()
    consumed = min(after, len(first))
    state = first.state_after(consumed)

    def go_on(given):
        made = sampler(others)
        if kind == "iterator":
            live = iter(made)
            live.load_state_dict(given)
            return [made.epoch, *islice(live, FEW)]
        made.load_state_dict(given)
        return [made.epoch, *islice(made, FEW)]

    return Saved(kind, state, go_on, go_on(state))


def _of_a_stream(kind, lengths, batching, seed, world_size, accumulate, after) -> Saved:
    samples = [[number] * int(length) for number, length in enumerate(lengths)]
    options = {"batching": batching, "buffer_size": 40, "seed": seed, "accumulate": accumulate}
    options |= {"rank": world_size - 1, "world_size": world_size}

    def made():
        if kind == "stream":
            return bw.stream(samples, **options)
        return StreamDataset(samples, **options)

    def go_on(given):
        new = made()
        new.load_state_dict(given)
        return list(islice(iter(new), FEW))

    first = made()
    list(islice(iter(first), after))
    state = first.state_dict()
    return Saved(kind, state, go_on, go_on(state))


def _batching(rng):
    capacity = int(rng.integers(30, 90))
    batchings = (
        bw.TokenBudget(capacity),
        bw.TokenBudget(2 * capacity, max_samples=4),
        bw.Packing(capacity),
        bw.Packing(int(rng.integers(8, 20)), oversize="split"),
        bw.FixedSize(int(rng.integers(1, 4))),
    )
    return batchings[rng.integers(len(batchings))]


ODD = (None, True, False, -1, 0, 1, 2, 3, 10**6, 10**9, 10**30, 0.0, 1.5, "", "0", "x" * 50, [], {})
"""Values put in the place of others."""


def _edited(state: dict[str, Any], rng: np.random.Generator) -> Any:
    """Change a state in one to three places."""
    for _ in range(int(rng.integers(1, 4))):
        state = _changed(state, rng, depth=0)
        if not isinstance(state, dict):
            break
    return state


def _changed(value: Any, rng: np.random.Generator, depth: int) -> Any:
    if isinstance(value, dict) and value and (depth == 0 or rng.random() < 0.7):
        return _changed_dict(value, rng, depth)
    if isinstance(value, list) and value and rng.random() < 0.7:
        place = int(rng.integers(len(value)))
        way = rng.integers(4)
        if way == 0:
            return value[:place] + value[place + 1 :]
        if way == 1:
            return [*value, value[place]]
        return [*value[:place], _changed(value[place], rng, depth + 1), *value[place + 1 :]]
    return _changed_value(value, rng)


def _changed_value(value, rng):
    way = rng.integers(3)
    if isinstance(value, int) and not isinstance(value, bool) and way:
        return value + int(rng.integers(-3, 4)) if way == 1 else float(value)
    if isinstance(value, str) and value and way:
        place = int(rng.integers(len(value)))
        letter = "0123456789abcdefAZ+/="[rng.integers(21)]
        return value[:place] + letter + value[place + 1 :] if way == 1 else value[:place]
    return ODD[rng.integers(len(ODD))]


def _changed_dict(value, rng, depth):
    names = sorted(value)
    name, other = (names[rng.integers(len(names))] for _ in range(2))
    way = rng.integers(6)
    changed = dict(value)
    if way == 0:
        del changed[name]
    elif way == 1:
        changed[name], changed[other] = value[other], value[name]
    elif way == 2:
        changed["new"] = value[name]
    else:
        changed[name] = _changed(value[name], rng, depth + 1)
    return changed


def _sealed(state: dict[str, Any]) -> Any:
    fields = {name: each for name, each in state.items() if name not in {"version", "checksum"}}
    try:
        return sealed(fields, version=state["version"])
    except (TypeError, ValueError, OverflowError):
        return state


class StuckError(WrongStateError):
    """A state that is never answered."""


def _alarm(*_: object) -> None:
    raise StuckError(f"no answer after {30 * SECONDS} s")


def run(jobs: int, first: int, *, say=print) -> int | None:
    """Check jobs; return the seed of the first failing one, None if there is none."""
    seen: Counter[str] = Counter()
    began = time.monotonic()
    failed = None
    before = signal.signal(signal.SIGALRM, _alarm)
    try:
        for number in range(jobs):
            signal.alarm(30 * SECONDS)
            try:
                seen[check_job(first + number)] += 1
            except Exception as error:  # noqa: BLE001 (a raw error is a finding)
                seen["wrong"] += 1
                say(f"seed {first + number}: {type(error).__name__}: {error}")
                failed = first + number if failed is None else failed
            if number % 1000 == 999:
                say(f"{number + 1} of {jobs} jobs, {time.monotonic() - began:.0f} s: {dict(seen)}")
    except KeyboardInterrupt:
        say("interrupted")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    say(f"{sum(seen.values())} jobs: {dict(seen)}")
    if failed is not None:
        say(f"see it again: python -m tests.stress.states --jobs 1 --seed {failed}")
    return failed


def main() -> int:
    """Read the arguments, and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=20_000, help="how many states")
    parser.add_argument("--seed", type=int, default=0, help="of the first job")
    given = parser.parse_args()
    return 0 if run(given.jobs, given.seed) is None else 1


if __name__ == "__main__":
    sys.exit(main())
