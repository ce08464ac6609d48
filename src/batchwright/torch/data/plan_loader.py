"""A `DataLoader` over a plan, which knows its epoch, its position and its rank."""

import itertools
import sys
import warnings
from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset
from torch.utils.data.distributed import DistributedSampler

from batchwright.errors import PlanError
from batchwright.planner import Planner
from batchwright.plans import Plan
from batchwright.torch.data.batch_sampler import PlanBatchSampler, warn_if_over_budget
from batchwright.torch.data.trees import mapped
from batchwright.typing import Batch, Field, IntArray, State

_PLANNED = ("batch_size", "shuffle", "sampler", "batch_sampler", "drop_last")
"""Arguments of a `DataLoader` in whose place there is a plan."""

_WRAPPER = "_WrappedDataLoader"
"""What Ray calls the loader around another that its `prepare_data_loader` returns."""


class PlanLoader(DataLoader[Any]):
    """Loads the batches of each epoch's plan: a `DataLoader` that resumes exactly, on any ranks.

    Every rank gets the same number of batches; together they are the plan. The position counts the
    batches that the training loop took, whatever workers load ahead, or Ray's wrapper does.

    `Accelerator.prepare`, Lightning and Ray's `prepare_data_loader` do not shard the loader again,
    since its batches are shared among the ranks already. Like other loaders that `prepare` returns,
    it then moves batches to the accelerator's device.

    Args:
        dataset: One sample for each length.
        planner: A `Planner`: a new plan every epoch. Or one global `Plan`: the same every epoch.
        rank: This process, from 0. None: as `torch.distributed` says once it is initialised.
        world_size: Processes that get different data. None: as `rank`.
        device: Where batches are moved. None: they stay, except as above.
        **options: Further arguments of `DataLoader`, such as `collate_fn` and `num_workers`.

    Attributes:
        epoch: The epoch of the next iterator.

    Raises:
        PlanError: If `dataset` has another number of samples than there are lengths, or an option
            contradicts the plan.

    Example:
        >>> from batchwright import Planner
        >>> from batchwright.torch import PadCollator
        >>> dataset = [torch.ones(n) for n in (5, 3, 8, 2, 7, 1)]
        >>> planner = Planner([len(each) for each in dataset], max_tokens=10)
        >>> loader = PlanLoader(dataset, planner, collate_fn=PadCollator())
        >>> batches = iter(loader)
        >>> _ = next(batches)
        >>> saved = loader.state_dict()
        >>> resumed = PlanLoader(dataset, planner, collate_fn=PadCollator())
        >>> resumed.load_state_dict(saved)
        >>> len(loader), len(list(resumed))
        (4, 3)
    """

    def __init__(
        self,
        dataset: "Dataset[Any] | Any",
        planner: Planner | Plan,
        *,
        rank: int | None = None,
        world_size: int | None = None,
        device: torch.device | str | int | None = None,
        **options: Any,
    ) -> None:
        _check(dataset, planner, options)
        planned = PlanBatchSampler(planner, rank=rank, world_size=world_size)
        super().__init__(dataset, batch_sampler=planned, **options)
        # DataLoader put a sampler here that it does not use, and lets nobody assign another.
        self.__dict__["sampler"] = Shared(planned)
        self._planned, self._device = planned, device
        self._is_placed = rank is not None  # by the user
        self._is_prepared = False  # by accelerate
        self._is_over_budget = False
        self._begun = 0  # passes of the sampler, up to the last that this loader knows of
        self._taken = 0  # batches of that one

    @property
    def epoch(self) -> int:
        """The epoch of the next iterator."""
        return self._planned.epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iterator; a state of another one is then forgotten."""
        self._planned.set_epoch(epoch)
        course = self._planned.course
        if course is None or course.epoch != epoch or self._taken == len(course):
            self._forget()

    def state_dict(self) -> State:
        """Return how far the training loop is: a few hundred bytes, the same on every rank.

        JSON can keep it. Save it at the end of an update. `PlanBatchSampler` loads it as well.
        """
        course = self._planned.course
        is_known = course is None or course.epoch != self.epoch
        if self._planned.begun != self._begun and not is_known:
            raise PlanError(
                "another loader went through the plan, such as one from skip_first_batches: how "
                "far is unknown here. Instead of skipping batches, resume with load_state_dict; or "
                "count them, and save loader.batch_sampler.state_after(count)."
            )
        return self._planned.state_after(self._taken)

    def load_state_dict(self, state: State, *, planned_by: Planner | Plan | None = None) -> None:
        """Make the next iterator go on where a state was saved, in that state's epoch.

        The number of workers and ranks, and the budget, may be others; see `PlanBatchSampler`.
        """
        self._planned.load_state_dict(state, planned_by=planned_by)
        self._forget()
        caller = str(sys._getframe(1).f_globals.get("__name__"))  # noqa: SLF001
        if "lightning" not in caller.partition(".")[0]:
            return
        count, whole = self._planned.num_batches, len(self)
        if count > whole:
            raise PlanError(
                f"the epoch is resumed on more ranks than before: it has {count} batches for each "
                f"of them, and Lightning, which has counted {whole}, would leave out the last "
                f"{count - whole}. Resume on as many ranks as before, or fewer; or give fit a "
                "PlanDataModule, from the beginning of a run on."
            )

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """Begin an epoch, or go on where the loaded state says, with the first batch."""
        device = self._device
        if self._is_prepared:
            accelerate = sys.modules["accelerate"]
            _check_prepared(self, accelerate, is_placed=self._is_placed)
            device = accelerate.PartialState().device if device is None else device
        batches = super().__iter__()  # only now: trainers set the epoch of an iterator they have
        self._forget()
        begun = None
        ahead = _held_back(sys._getframe(1))  # noqa: SLF001 -- who asks: Ray reads one ahead
        for count in itertools.count():
            batch = next(batches, self)
            begun = self._planned.begun if begun is None else begun
            self._begun, self._taken = begun, count if batch is self else count + 1 - ahead
            if batch is self:
                return
            if not self._is_over_budget:
                self._is_over_budget = warn_if_over_budget(self._planned.course, batch)
            yield batch if device is None else _moved(batch, device, non_blocking=self.pin_memory)

    def _forget(self) -> None:
        """Take note that nothing was taken from where the sampler is now."""
        self._begun, self._taken = self._planned.begun, 0

    @property
    def _is_accelerate_prepared(self) -> bool:
        """What `Accelerator.prepare` asks a loader before it shards it; nothing else does."""
        self._is_prepared = "accelerate" in sys.modules
        return True

    @_is_accelerate_prepared.setter
    def _is_accelerate_prepared(self, value: bool) -> None:
        pass


class Shared(DistributedSampler[int]):
    """Says that a loader's batches are shared among ranks: Lightning and Ray look for this class.

    Its samples are those of a rank's batches; the loader draws the batches from the plan itself.
    """

    def __init__(self, planned: PlanBatchSampler) -> None:
        self._planned = planned

    def __iter__(self) -> Iterator[int]:
        return iter(self._samples().tolist())

    def __len__(self) -> int:
        return len(self._samples())

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iterator."""
        self._planned.set_epoch(epoch)

    def _samples(self) -> IntArray:
        return self._planned.plan.shard(self._planned.rank, self._planned.world_size).indices


def _check(dataset: object, planner: object, options: dict[str, Any]) -> None:
    """Raise `PlanError` for arguments that contradict a plan."""
    name = next((name for name in _PLANNED if name in options), None)
    if name is not None:
        raise PlanError(
            f"PlanLoader({name}={options[name]!r:.60}): the plan says which samples share a batch, "
            f"and their order. Leave {name} out, and set it in the Planner."
        )
    if options.get("in_order") is False:
        raise PlanError(
            "PlanLoader(in_order=False): batches in another order than the plan's have no position "
            "to resume from. Leave it out."
        )
    by_index = hasattr(dataset, "__getitem__") or hasattr(dataset, "__getitems__")
    if isinstance(dataset, IterableDataset) or not by_index:
        raise PlanError(
            f"PlanLoader got a {type(dataset).__name__}, a stream: nobody can ask it for the "
            "samples of a batch. Use StreamDataset, or give data that has __getitem__."
        )
    try:
        size = len(dataset)  # type: ignore[arg-type]  # may not have one
    except Exception:  # noqa: BLE001 (a data set may say in any way that it does not know)
        return
    planned = planner.num_samples if isinstance(planner, Planner) else None
    if planned is not None and planned != size:
        raise PlanError(
            f"the planner has {planned} lengths, and the {type(dataset).__name__} {size} samples. "
            "Plan with one length for each sample, after every filter."
        )


def _check_prepared(loader: PlanLoader, accelerate: Any, *, is_placed: bool) -> None:
    """Check what accelerate takes care of in loaders that it prepares itself."""
    state = accelerate.state.AcceleratorState() if accelerate.state.is_initialized() else None
    parallel = getattr(state, "parallelism_config", None)
    sharing = getattr(parallel, "non_data_parallel_size", 1)
    if sharing > 1 and not is_placed:
        raise PlanError(
            f"accelerate splits the model among {sharing} ranks that need the same batches. Give "
            "PlanLoader rank= and world_size= of the data-parallel group."
        )
    steps, count = accelerate.state.GradientState().num_steps, len(loader)
    if torch.is_grad_enabled() and count % steps:
        warnings.warn(
            f"accelerate accumulates gradients over {steps} batches, and an epoch has {count} for "
            f"each rank: its last update goes on into the next. Plan with accumulate={steps}.",
            stacklevel=3,
        )


def _held_back(caller: FrameType) -> int:
    """Return how many batches are between the caller, who asks for them, and the training loop.

    The loader that Ray's `prepare_data_loader` returns has always asked for one more than it gave,
    until there are no more.
    """
    around = type(caller.f_locals.get("self"))
    return int(around.__name__ == _WRAPPER and around.__module__.startswith("ray."))


def _moved(batch: Batch, device: torch.device | str | int, *, non_blocking: bool) -> Batch:
    def move(tensor: torch.Tensor) -> Field:
        return tensor.to(device, non_blocking=non_blocking)

    return mapped(batch, move)
