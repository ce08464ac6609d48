"""Where a run under a plan goes on: what its checkpoint says, and whether it can be continued."""

import json
import re
import warnings
from pathlib import Path
from typing import Any

from batchwright.errors import PlanError
from batchwright.plan_source import as_source
from batchwright.planner import Planner
from batchwright.resume import chart, read_position

_STATE = "trainer_state.json"
"""What Trainer writes last into a checkpoint."""


def continued(
    checkpoint: Path, trainer: Any, planner: Planner, *, is_made: bool
) -> tuple[Planner, tuple[Any, int] | None] | None:
    """Find where a run is to go on, or raise `PlanError`.

    The trainer's accumulation is set so that updates keep their batches. `is_made`: the planner is
    of the trainer's settings, which are of so many ranks.

    Returns:
        The planner for these ranks; and the state to load with the number of batches before it,
        None at the beginning of an epoch. None: the checkpoint is of weights alone.
    """
    if not (checkpoint / _STATE).exists():
        return None  # weights alone: a new run
    found = json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))
    step, callbacks = found["global_step"], found.get("stateful_callbacks", {})
    saved = callbacks.get("PlanCallback", {}).get("attributes")
    if not saved:
        raise PlanError(
            f"{checkpoint} was written without this plan: which samples it has seen is "
            "unknown. Begin a new run from its weights: from_pretrained(…), and train() "
            "without resume_from_checkpoint."
        )
    args = trainer.args
    ranks, accumulate = saved["world_size"], saved["accumulate"]
    batches, now = ranks * accumulate, args.world_size
    if batches % now or (now == ranks and accumulate != args.gradient_accumulation_steps):
        raise PlanError(
            f"{checkpoint} was trained in updates of {ranks} ranks × {accumulate} batches, and "
            f"now there are {now} ranks × {args.gradient_accumulation_steps}: Trainer would "
            f"count epochs wrongly. Resume with gradient_accumulation_steps={accumulate} on "
            f"{ranks} ranks, or on another number that divides {batches}."
        )
    if batches // now != args.gradient_accumulation_steps:
        if trainer.is_deepspeed_enabled:
            raise PlanError(f"set gradient_accumulation_steps={batches // now} for DeepSpeed.")
        warnings.warn(
            f"{checkpoint} was trained by {ranks} ranks × {accumulate} batches an update. On "
            f"{now}, gradient_accumulation_steps is {batches // now}, so that updates stay.",
            stacklevel=3,
        )
        args.gradient_accumulation_steps = batches // now
    if is_made and planner.step_tokens is not None:
        settings = saved["sampler"].get("settings") or {}
        planner = Planner(
            planner.given,
            batching=planner.batching,
            order=planner.order,
            seed=planner.seed,
            step_tokens=settings.get("step_tokens"),
        )
    planner = planner.resized(now, batches // now)
    source = as_source(planner)
    position = read_position(saved["sampler"], source)
    length, updates = source.num_batches(now) // now, saved["updates"]
    epoch, done = divmod(step, updates)
    skipped = done * (batches // now)
    left = len(chart(source, position, now)) if done else length
    fits = -(-length // (batches // now)) == updates and skipped + left == length
    if not fits or position.epoch != (epoch if done else epoch - 1):
        raise PlanError(
            f"{checkpoint} is {done} of {updates} updates into epoch {epoch}, and now an epoch "
            f"has {length} batches on each of {now} ranks, of which {left} are left: Trainer "
            f"would count wrongly. Resume with the budget that the run began with."
        )
    if not done:
        return planner, None
    args.ignore_data_skip = False  # the batches that Trainer skips are empty
    return planner, (saved["sampler"], skipped)


def last_whole(folder: Path) -> Path | None:
    """Return the last checkpoint that was written to its end. None: there is no checkpoint.

    A run that is killed while it saves leaves one that nothing can go on from.
    """
    found = [(re.fullmatch(r"checkpoint-(\d+)", path.name), path) for path in folder.glob("*/")]
    numbered = sorted((int(match[1]), path) for match, path in found if match)
    for _, path in reversed(numbered):
        try:
            json.loads((path / _STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            warnings.warn(
                f"{path} was not written to its end: the checkpoint before it is continued.",
                stacklevel=4,
            )
            continue
        return path
    if numbered:
        raise PlanError(
            f"no checkpoint in {folder} was written to its end. Delete them, and train() without "
            "resume_from_checkpoint."
        )
    return None
