"""The trainer's loaders, with the batches of a plan."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from batchwright.planner import Planner
from batchwright.plans import Plan
from batchwright.torch.data.batch_sampler import PlanBatchSampler
from batchwright.torch.data.plan_loader import PlanLoader
from batchwright.typing import State

_OPTIONS = (
    "num_workers",
    "pin_memory",
    "timeout",
    "worker_init_fn",
    "multiprocessing_context",
    "prefetch_factor",
    "persistent_workers",
)
"""Options of the trainer's own loader that are kept."""


class Loader(PlanLoader):
    """The trainer's loader, as it was made, with planned batches.

    Attributes:
        batches: Those of this rank, in evaluation.
    """

    batches: Sequence[Any] = ()

    def __init__(self, own: Any, plans: Planner | Plan, args: Any, collator: Any) -> None:
        options = {name: getattr(own, name) for name in _OPTIONS}
        place = {"rank": args.process_index, "world_size": args.world_size}
        super().__init__(own.dataset, plans, collate_fn=collator, **place, **options)
        self.planned: PlanBatchSampler = self.batch_sampler  # type: ignore[assignment]

    def go_on(self, state: State, skipped: int) -> None:
        """Go on where a state was saved, after as many empty batches as were consumed."""
        self.load_state_dict(state)
        # DataLoader lets nobody assign another.
        self.__dict__["batch_sampler"] = Rest(self.planned, skipped)


class Rest:
    """What is left of an epoch, after as many empty batches as were consumed: Trainer skips these.

    So it counts updates, and its part of the epoch, as if it had loaded them.
    """

    def __init__(self, planned: PlanBatchSampler, skipped: int) -> None:
        self._planned, self._skipped = planned, skipped

    def __len__(self) -> int:
        return len(self._planned)

    def __iter__(self) -> Iterator[Any]:
        skipped, self._skipped = self._skipped, 0
        return itertools.chain(itertools.repeat([], skipped), self._planned)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iterator."""
        self._planned.set_epoch(epoch)
