"""What an arm's largest batches take."""

from typing import Any

from batchwright.compare.arm import Arm
from batchwright.compare.devices import moved
from batchwright.torch.memory.copies import random_states_kept
from batchwright.torch.memory.real_step import can_measure, real_steps
from batchwright.torch.memory.task import Task as Step
from batchwright.torch.update.policy import policy_for


class _Given:
    """Makes the same batch, whatever is asked for."""

    def __init__(self, batch: Any) -> None:
        self._batch = batch

    def __call__(self, rows: int, length: int) -> Any:
        return self._batch


class _GivenStep(Step):
    """A step on a batch that is given: whatever its shape."""

    def batch(self, rows: int, length: int) -> Any:
        return self.make_batch(rows, length)


def peak_bytes(arm: Arm) -> int | None:
    """Measure the most memory that an arm takes: parameters, optimizer, gradients, a batch.

    Its largest batches go through the model once, forward and backward, on a copy that leaves the
    arm as it was; the allocator tells what was there at most.

    Args:
        arm: The arm, with its precision chosen.

    Returns:
        Bytes; None where the device does not tell.
    """
    if not can_measure(arm.device):
        return None
    policy = policy_for(arm.precision.mode, arm.device)  # type: ignore[arg-type]  # chosen
    peaks = []
    for batch in arm.largest_batches():
        on_device = moved(batch, arm.device)
        step = _GivenStep(
            arm.model,
            (arm.optimizer,),
            arm.task.loss_sum,
            _Given(on_device),
            policy.autocast,
            accumulates=arm.planner.accumulate > 1,
        )
        with random_states_kept(arm.model), real_steps(step, 1) as run:
            peaks.append(run.state.total + run(1, 1))
    return max(peaks)
