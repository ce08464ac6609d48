"""The ranks that train one model: what each holds of it, and what they tell one another."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal
from weakref import WeakSet

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_map_only

from batchwright.errors import UpdateError

_INTERRUPTED: WeakSet[torch.nn.Module] = WeakSet()
"""Models that cannot be trained on: sharded ones that were left in the middle of a pass, and copies
that an error left different."""


@dataclass(frozen=True, eq=False)
class Ranks:
    """The ranks that train one model together. Made by `ranks_of`.

    Attributes:
        model: The model; past its wrapper, if that is DistributedDataParallel: a pass through
            it sends neither gradients nor buffers.
        kind: What a rank holds. ``"one"``: this process trains alone. ``"copies"``: all of the
            model; gradients have to be summed. ``"shards"``: a part of each parameter;
            backward averages gradients over ranks by itself.
        rank: This rank among them.
        size: How many they are.
        wrapper: The DistributedDataParallel around the model.
    """

    model: torch.nn.Module
    kind: Literal["one", "copies", "shards"] = "one"
    rank: int = 0
    size: int = 1
    wrapper: DistributedDataParallel | None = None

    def summed(self, values: Sequence[float]) -> list[float]:
        """Sum some numbers over all ranks, by one small all-reduce.

        Args:
            values: The numbers of this rank, as many on each.

        Returns:
            The sums, the same on every rank.
        """
        if self.kind == "one":
            return [float(value) for value in values]
        # gloo reduces on the processor, others where the model is.
        on_processor = distributed.get_backend(self.group) == "gloo"
        device = torch.device("cpu") if on_processor else device_of(self.model)
        tensor = torch.tensor([float(value) for value in values], dtype=torch.float64)
        tensor = tensor.to(device)
        distributed.all_reduce(tensor, group=self.group)
        return [float(value) for value in tensor.tolist()]

    def gathered(self, values: Sequence[float]) -> list[list[float]]:
        """Tell every rank the numbers of each.

        Args:
            values: The numbers of this rank, as many on each; finite.

        Returns:
            Rank → its numbers.
        """
        width = len(values)
        everyone = [0.0] * (width * self.size)
        everyone[self.rank * width : (self.rank + 1) * width] = [float(each) for each in values]
        sums = self.summed(everyone)
        return [sums[start : start + width] for start in range(0, len(sums), width)]

    def shared_buffers(self) -> list[torch.Tensor]:
        """Return the buffers that DistributedDataParallel would take from rank 0 for each pass."""
        if self.kind != "copies" or self.wrapper is None or not self.wrapper.broadcast_buffers:
            return []
        ignored = self.wrapper.parameters_to_ignore
        return [buffer for name, buffer in self.model.named_buffers() if name not in ignored]

    @property
    def first(self) -> int:
        """Rank 0 of these, by its number among all processes."""
        return self._global_rank(0)

    def _global_rank(self, rank: int) -> int:
        return rank if self.group is None else distributed.get_global_rank(self.group, rank)

    def _broadcast(self, tensor: torch.Tensor, source: int) -> None:
        sent = tensor.detach().contiguous()
        distributed.broadcast(sent, source, group=self.group)
        if sent.data_ptr() != tensor.data_ptr():
            tensor.copy_(sent)

    def forget_passes(self) -> None:
        """Have DistributedDataParallel forget a pass forward that no pass backward followed.

        It waits for one, and would take the next for it, though that goes past it: ranks that
        make their passes in different numbers would then reduce different things.
        """
        reset = getattr(self.wrapper, "_update_process_group", None)
        if self.wrapper is not None and reset is not None:
            reset(self.wrapper.process_group)

    def interrupt(self) -> None:
        """Note that a pass was cut off: shards do not get over that, copies do."""
        if self.kind == "shards":
            _INTERRUPTED.add(self.model)

    def take_over(
        self,
        failures: Sequence[bool],
        parameters: Sequence[torch.nn.Parameter],
        optimizers: Sequence[torch.optim.Optimizer],
    ) -> None:
        """Make all copies equal after a step that failed on some ranks: those of one that stepped.

        Args:
            failures: Rank → whether its step failed.
            parameters: In the same sequence on every rank.
            optimizers: Whose states are taken over, too.
        """
        if self.kind == "one":
            return
        _INTERRUPTED.add(self.model)
        if self.kind == "shards":
            return
        chosen = failures.index(False) if False in failures else 0
        source = self._global_rank(chosen)
        with torch.no_grad():
            for parameter in parameters:
                self._broadcast(parameter, source)
        states = [_on_processor([each.state_dict() for each in optimizers])]
        distributed.broadcast_object_list(states, source, group=self.group)
        if self.rank != chosen:
            for optimizer, state in zip(optimizers, states[0], strict=True):
                optimizer.load_state_dict(state)
        _INTERRUPTED.discard(self.model)

    def without(self, failed: float) -> UpdateError:
        """Make the error of a rank that cannot go on because others failed."""
        return UpdateError(
            f"{int(failed)} of {self.size} ranks failed in this update; none has stepped. See "
            "their messages."
        )

    @property
    def group(self) -> Any:
        """The process group of the ranks. None: the default one."""
        return None if self.wrapper is None else self.wrapper.process_group


def ranks_of(model: torch.nn.Module) -> Ranks:
    """Tell which ranks train a model together, and what each holds of it.

    Args:
        model: The model as it is trained: bare, in DistributedDataParallel, or after
            ``fully_shard``.

    Returns:
        The ranks. A bare model is trained by this one alone.

    Raises:
        UpdateError: For whatever would reduce gradients in a way that makes them wrong.

    Example:
        >>> ranks_of(torch.nn.Linear(2, 1)).kind
        'one'
    """
    if not distributed.is_available() or not distributed.is_initialized():
        return Ranks(model)
    if isinstance(model, DistributedDataParallel):
        _refuse_settings(model)
        if model.module in _INTERRUPTED:
            raise UpdateError(
                "an earlier update failed on some ranks, and their copies of the model could not "
                "be made equal again. Start again from a checkpoint."
            )
        size = distributed.get_world_size(model.process_group)
        rank = distributed.get_rank(model.process_group)
        return Ranks(model.module, "copies" if size > 1 else "one", rank, size, model)
    _refuse_wrappers_inside(model)
    fully_sharded = _imported("torch.distributed.fsdp", "FSDPModule")
    parts = [module for module in model.modules() if isinstance(module, fully_sharded)]
    if not parts and not any(_is_sharded(parameter) for parameter in model.parameters()):
        return Ranks(model)
    if model in _INTERRUPTED:
        raise UpdateError(
            "an error cut off an earlier pass through this sharded model, and fully_shard does not "
            "get over that: gradients would be missing. Make the model anew, from a checkpoint."
        )
    for part in parts:
        part.reshard()  # an evaluation leaves the outermost parameters whole
    _refuse_other_shards(model, by_fully_shard=bool(parts))
    return Ranks(model, "shards", distributed.get_rank(), distributed.get_world_size())


def device_of(model: torch.nn.Module) -> torch.device:
    """Return the device of a model's first parameter; the processor if it has none.

    Example:
        >>> device_of(torch.nn.ReLU()).type
        'cpu'
    """
    return next((each.device for each in model.parameters()), torch.device("cpu"))


def parameters_of(
    model: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer]
) -> list[torch.nn.Parameter]:
    """Return the parameters of a model and of its optimizers, each once.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> temperature = torch.nn.Parameter(torch.ones(()))
        >>> optimizer = torch.optim.SGD([*model.parameters(), temperature], lr=0.1)
        >>> len(parameters_of(model, [optimizer]))
        3
    """
    optimized = (
        parameter
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    )
    return list(dict.fromkeys(chain(model.parameters(), optimized)))


def _on_processor(states: list[dict[str, Any]]) -> list[dict[str, Any]]:
    moved: list[dict[str, Any]] = tree_map_only(torch.Tensor, lambda each: each.cpu(), states)
    return moved


def _imported(module: str, name: str) -> Any:
    """Return a class of torch's; nothing is an instance of it before its module is imported."""
    return getattr(sys.modules.get(module), name, ())


def _is_sharded(parameter: torch.Tensor) -> bool:
    return isinstance(parameter, _imported("torch.distributed.tensor", "DTensor"))


def _refuse_settings(wrapper: DistributedDataParallel) -> None:
    if wrapper.static_graph:
        raise UpdateError(
            "DistributedDataParallel(static_graph=True) counts passes backward, and would leave "
            "out gradients in steps of its own after an update. Leave it out: an update has no "
            "need of it."
        )
    ignored = wrapper.parameters_to_ignore
    local = [name for name, each in wrapper.module.named_parameters() if each.requires_grad]
    left_out = [name for name in local if name in ignored] if ignored else []
    if left_out or any(_is_sharded(each) for each in wrapper.module.parameters()):
        raise UpdateError(
            f"DistributedDataParallel leaves out {', '.join(left_out) or 'sharded parameters'}: "
            "an update sums the gradients of all parameters over all ranks, or of none."
        )
    if getattr(wrapper, "mixed_precision", None) is not None:
        raise UpdateError(
            "DistributedDataParallel(mixed_precision=...) casts in its own pass forward, which "
            'an update goes past. Leave it out, and give the precision here: Precision("bf16").'
        )


def _refuse_wrappers_inside(model: torch.nn.Module) -> None:
    older = _imported("torch.distributed.fsdp", "FullyShardedDataParallel")
    for module in model.modules():
        if isinstance(module, older):
            raise UpdateError(
                "FullyShardedDataParallel keeps no gradient per parameter. Use "
                "torch.distributed.fsdp.fully_shard."
            )
        if isinstance(module, DistributedDataParallel):
            raise UpdateError(
                f"there is a DistributedDataParallel inside of the {type(model).__name__}, and it "
                "would average gradients by itself. Wrap last, as in "
                "DistributedDataParallel(torch.compile(model)), and give update the wrapper."
            )


def _refuse_other_shards(model: torch.nn.Module, *, by_fully_shard: bool) -> None:
    """Let pass what `fully_shard` makes over all ranks: backward averages over all of them."""
    whole = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and not _is_sharded(parameter)
    ]
    if whole:
        raise UpdateError(
            f"some parameters are sharded and {len(whole)} are not, the first of them {whole[0]}: "
            "nobody reduces their gradients. Call fully_shard(model) on the whole model last."
        )
    if not by_fully_shard:
        raise UpdateError(
            "the parameters are DTensors that fully_shard did not make: whether their gradients "
            "are averages over ranks cannot be told. Data parallelism by fully_shard and "
            "DistributedDataParallel is supported."
        )
    world_size = distributed.get_world_size()
    sharded: list[tuple[str, Any]] = [
        (name, each) for name, each in model.named_parameters() if _is_sharded(each)
    ]
    for name, parameter in sharded:
        *replicas, last = parameter.placements
        by_data = last.is_shard() and all(each.is_replicate() for each in replicas)
        over = parameter.device_mesh.size()
        if not by_data or over != world_size:
            raise UpdateError(
                f"{name} is sharded as {parameter.placements} over {over} of {world_size} ranks. "
                "Data parallelism over all ranks is supported: fully_shard, on a mesh of shards, "
                "or of replicas of shards."
            )
