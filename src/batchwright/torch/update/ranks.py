"""The ranks that train one model: what each holds of it, and how they sum over all of them."""

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast
from weakref import WeakSet

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_map_only

from batchwright.errors import UpdateError

_BUCKET = 25 << 20  # bytes reduced at once: as many as in DistributedDataParallel

_INTERRUPTED: WeakSet[torch.nn.Module] = WeakSet()
"""Models that cannot be trained further: shards left in the middle of a pass, unequal copies."""

_Optimizers: TypeAlias = Sequence[torch.optim.Optimizer]
_Parameters: TypeAlias = Sequence[torch.nn.Parameter]


@dataclass(frozen=True, eq=False)
class Ranks:
    """The ranks that train one model together. Made by `ranks_of`.

    What a rank holds is its `kind`. ``"one"``: this process trains alone. ``"copies"``: all of the
    model; gradients have to be summed. ``"shards"``: a part of each parameter; backward averages
    gradients over ranks by itself.
    """

    model: torch.nn.Module  # without a DistributedDataParallel around it: passes send nothing
    kind: Literal["one", "copies", "shards"] = "one"
    rank: int = 0
    size: int = 1
    wrapper: DistributedDataParallel | None = None  # around the model

    @property
    def group(self) -> "distributed.ProcessGroup | None":
        """The process group. None: the default one."""
        return None if self.wrapper is None else self.wrapper.process_group

    def summed(self, values: Sequence[float]) -> list[float]:
        """Sum numbers over all ranks, by one small all-reduce; each rank gives as many."""
        tensor = torch.tensor([float(value) for value in values], dtype=torch.float64)
        if self.kind != "one":
            if distributed.get_backend(self.group) != "gloo":  # which reduces on the CPU
                tensor = tensor.to(device_of(self.model))
            distributed.all_reduce(tensor, group=self.group)
        return cast("list[float]", tensor.tolist())

    def gathered(self, values: Sequence[float]) -> list[list[float]]:
        """Return the numbers of every rank; each gives as many, all finite."""
        width = len(values)
        everyone = [0.0] * (width * self.size)
        everyone[self.rank * width : (self.rank + 1) * width] = values
        sums = self.summed(everyone)
        return [sums[start : start + width] for start in range(0, len(sums), width)]

    def forget_passes(self) -> None:
        """Have DistributedDataParallel forget a forward pass without a backward pass.

        It would take the next backward pass, which bypasses it, for the missing one, and ranks
        that make different numbers of passes would reduce different gradients.
        """
        reset = getattr(self.wrapper, "_update_process_group", None)
        if self.wrapper is not None and reset is not None:
            reset(self.wrapper.process_group)

    def interrupt(self) -> None:
        """Note that a pass through shards was cut off: they do not recover from that."""
        _INTERRUPTED.add(self.model)

    def take_over(
        self, failures: Sequence[bool], parameters: _Parameters, optimizers: _Optimizers
    ) -> None:
        """Make all copies, and their optimizers, equal to those of a rank that did not fail."""
        if self.kind == "one":
            return
        _INTERRUPTED.add(self.model)
        if self.kind == "shards":
            return
        chosen = failures.index(False) if False in failures else 0
        source = self.global_rank(chosen)
        with torch.no_grad():
            for parameter in parameters:
                sent = parameter.detach().contiguous()
                distributed.broadcast(sent, source, group=self.group)
                _write_back(parameter, sent)
        own = [each.state_dict() for each in optimizers]
        states = [tree_map_only(torch.Tensor, torch.Tensor.cpu, own)]
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

    def global_rank(self, rank: int) -> int:
        """Return the number of one of these ranks among all processes."""
        return rank if self.group is None else distributed.get_global_rank(self.group, rank)


_Message: TypeAlias = tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]
"""What is sent, and the gradients copied into it, each with its place; none if it is one itself."""


class Reduction:
    """A sum of gradients over copies of a model, with all memory taken beforehand.

    A gradient that only some ranks have counts as zero on the others. Buffers become rank 0's.
    `held`: how many ranks have a gradient of each parameter, then how many a sparse one.
    """

    def __init__(self, ranks: Ranks, parameters: _Parameters, held: Sequence[float]) -> None:
        self._ranks = ranks
        self._sparse: list[torch.nn.Parameter] = []
        dense: list[torch.Tensor] = []
        any_rank, sparse_ranks = held[: len(parameters)], held[len(parameters) :]
        for parameter, some, sparse in zip(parameters, any_rank, sparse_ranks, strict=True):
            if sparse not in {0, some}:
                raise UpdateError(
                    f"a gradient of shape {list(parameter.shape)} is sparse on some ranks and "
                    "dense on others. Make the embedding with sparse=False."
                )
            gradient = parameter.grad
            if sparse:
                parameter.grad = _no_rows(parameter) if gradient is None else gradient.coalesce()
                self._sparse.append(parameter)
            elif some:
                parameter.grad = torch.zeros_like(parameter) if gradient is None else gradient
                dense.append(parameter.grad)
        self._dense = [*_messages(dense)]
        wrapper, buffers = ranks.wrapper, []
        if wrapper is not None and wrapper.broadcast_buffers:
            ignored = wrapper.parameters_to_ignore
            buffers = [each for name, each in ranks.model.named_buffers() if name not in ignored]
        self._buffers = [(each, each.detach().contiguous()) for each in buffers]

    def run(self) -> BaseException | None:
        """Sum the gradients, and share the buffers.

        Every message is sent whatever goes wrong on this rank, as others wait for it; it is then
        filled with NaN, so that no rank steps.
        """
        group = self._ranks.group
        if self._sparse and distributed.get_backend(group) != "gloo":
            raise UpdateError(
                "only gloo can sum sparse gradients over ranks. Make the embedding with "
                "sparse=False."
            )
        problems: list[BaseException] = []

        @contextmanager
        def noted() -> Iterator[None]:
            try:
                yield
            except BaseException as error:  # noqa: BLE001 (raised once all is sent)
                problems.append(error)

        for sent, parts in self._dense:
            with noted():
                for gradient, part in parts:
                    part.copy_(gradient)
            if problems:
                sent.fill_(math.nan)
            distributed.all_reduce(sent, group=group)
            with noted():
                for gradient, part in parts:
                    gradient.copy_(part)
        for parameter in self._sparse:
            distributed.all_reduce(parameter.grad, group=group)
        for buffer, sent in self._buffers:
            distributed.broadcast(sent, self._ranks.global_rank(0), group=group)
            with noted():
                _write_back(buffer, sent)
        return problems[-1] if problems else None


def _write_back(tensor: torch.Tensor, sent: torch.Tensor) -> None:
    if sent.data_ptr() != tensor.data_ptr():
        tensor.copy_(sent)


def _no_rows(parameter: torch.nn.Parameter) -> torch.Tensor:
    """Return a sparse gradient without any row, as embeddings have them."""
    rows = parameter.new_zeros(0, *parameter.shape[1:])
    nowhere = torch.zeros(1, 0, dtype=torch.int64, device=parameter.device)
    return torch.sparse_coo_tensor(
        nowhere, rows, parameter.shape, is_coalesced=True, check_invariants=False
    )


def _messages(gradients: Sequence[torch.Tensor]) -> Iterator[_Message]:
    """Group gradients of one type and device up to `_BUCKET` bytes."""
    groups: dict[tuple[torch.dtype, torch.device], list[list[torch.Tensor]]] = {}
    for gradient in gradients:
        buckets = groups.setdefault((gradient.dtype, gradient.device), [])
        if not buckets or sum(each.nbytes for each in buckets[-1]) >= _BUCKET:
            buckets.append([])
        buckets[-1].append(gradient)
    for (dtype, device), buckets in groups.items():
        lengths = [[gradient.numel() for gradient in bucket] for bucket in buckets]
        alone = [len(bucket) == 1 and bucket[0].is_contiguous() for bucket in buckets]
        copied = [sum(each) for each, is_alone in zip(lengths, alone, strict=True) if not is_alone]
        buffer = torch.empty(max(copied, default=0), dtype=dtype, device=device)  # serves all
        for bucket, parts, is_alone in zip(buckets, lengths, alone, strict=True):
            if is_alone:
                yield bucket[0], []
                continue
            sent = buffer[: sum(parts)]
            places = zip(bucket, torch.split(sent, parts), strict=True)
            yield sent, [(each, place.view(each.shape)) for each, place in places]


def ranks_of(model: torch.nn.Module) -> Ranks:
    """Return the ranks that train a model together, and what each holds."""
    if not distributed.is_available() or not distributed.is_initialized():
        return Ranks(model)
    if (model.module if isinstance(model, DistributedDataParallel) else model) in _INTERRUPTED:
        raise UpdateError(
            "an error cut off an earlier update of this model: its copies differ, or parts of its "
            "gradients are missing. Make the model anew, from a checkpoint."
        )
    if isinstance(model, DistributedDataParallel):
        _refuse_settings(model)
        group = model.process_group
        size, rank = distributed.get_world_size(group), distributed.get_rank(group)
        return Ranks(model.module, "copies" if size > 1 else "one", rank, size, model)
    _refuse_wrappers_inside(model)
    parts: list[Any] = [
        module
        for module in model.modules()
        if _is_a(module, "torch.distributed.fsdp", "FSDPModule")
    ]
    if not parts and not any(is_sharded(parameter) for parameter in model.parameters()):
        return Ranks(model)
    for part in parts:
        part.reshard()  # an evaluation leaves the outermost parameters whole
    _refuse_other_shards(model, by_fully_shard=bool(parts))
    return Ranks(model, "shards", distributed.get_rank(), distributed.get_world_size())


def device_of(model: torch.nn.Module) -> torch.device:
    """Return the device of a model's first parameter; the CPU if it has none."""
    return next((each.device for each in model.parameters()), torch.device("cpu"))


def _is_a(value: object, module: str, name: str) -> bool:
    """Return whether a value is of a class of torch's, whose module may not be imported."""
    return isinstance(value, getattr(sys.modules.get(module), name, ()))


def is_sharded(parameter: torch.Tensor) -> bool:
    """Return whether ranks hold a part each of a tensor."""
    return _is_a(parameter, "torch.distributed.tensor", "DTensor")


def _refuse_settings(wrapper: DistributedDataParallel) -> None:
    parameters = dict(wrapper.module.named_parameters())
    left_out = [
        name
        for name, each in parameters.items()
        if is_sharded(each) or (each.requires_grad and name in wrapper.parameters_to_ignore)
    ]
    reason = None
    if wrapper.static_graph:
        reason = "static_graph=True leaves out gradients after an update. Leave it out"
    elif left_out:
        reason = f"it leaves out {', '.join(left_out)}. An update sums all gradients over all ranks"
    elif getattr(wrapper, "mixed_precision", None) is not None:
        reason = 'an update bypasses its mixed_precision. Give it here, as in Precision("bf16")'
    if reason is not None:
        raise UpdateError(f"DistributedDataParallel: {reason}.")


def _refuse_wrappers_inside(model: torch.nn.Module) -> None:
    for module in model.modules():
        if _is_a(module, "torch.distributed.fsdp", "FullyShardedDataParallel"):
            raise UpdateError(
                "FullyShardedDataParallel keeps no gradient per parameter. Use "
                "torch.distributed.fsdp.fully_shard."
            )
        if isinstance(module, DistributedDataParallel):
            raise UpdateError(
                f"the DistributedDataParallel inside of the {type(model).__name__} would average "
                "gradients by itself. Wrap last: DistributedDataParallel(torch.compile(model))."
            )


def _refuse_other_shards(model: torch.nn.Module, *, by_fully_shard: bool) -> None:
    """Accept what `fully_shard` makes over all ranks: backward averages over all of them."""
    named = [*model.named_parameters()]
    whole = [name for name, each in named if each.requires_grad and not is_sharded(each)]
    if whole or not by_fully_shard:
        shown = f"{', '.join(whole[:1])} is not sharded" if whole else "fully_shard did not shard"
        raise UpdateError(
            f"some parameters are DTensors, but {shown}: nothing may reduce their gradients. Call "
            "fully_shard(model) on the whole model last, or use DistributedDataParallel."
        )
    world_size = distributed.get_world_size()
    sharded: list[tuple[str, Any]] = [(name, each) for name, each in named if is_sharded(each)]
    for name, parameter in sharded:
        *replicas, last = parameter.placements
        by_data = last.is_shard() and all(each.is_replicate() for each in replicas)
        over = parameter.device_mesh.size()
        if not by_data or over != world_size:
            raise UpdateError(
                f"{name} is sharded as {parameter.placements} over {over} of {world_size} ranks; "
                "expected fully_shard over all ranks, on a mesh of shards or of their replicas."
            )
