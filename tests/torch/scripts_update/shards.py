"""Ranks with shards of a model, by `fully_shard`: each has as many batches as the others."""

import warnings
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

from batchwright.torch import Precision
from batchwright.torch.update.gradient_check import relative_error
from batchwright.torch.windows import label_count
from tests.torch.attention_model import Attention, loss_sum, padded, sequences
from tests.torch.scripts_update.process import caught, digest, run
from tests.torch.test_update import OutOfMemory

SAMPLES = sequences(24)
WORLD_SIZE = 2


def make():
    torch.manual_seed(0)
    return Attention().eval()


def sharded(model, mesh=None):
    for part in (model.embed, model.mix, model.head):
        fully_shard(part, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def full_gradient(model):
    return flat(each.grad.full_tensor() for each in model.parameters())


def flat(tensors):
    return torch.cat([tensor.detach().flatten().double() for tensor in tensors])


def reference_of(clip=None):
    """One step on one batch of everything, by one process."""
    model = make()
    batch = padded(SAMPLES)
    (loss_sum(model, batch) / label_count(batch)).backward()
    gradient = flat(each.grad for each in model.parameters())
    if clip is not None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    return gradient, flat(model.parameters())


def shares_of(generator, batches):
    """Deal samples at random: equal numbers of batches, unequal numbers of samples and tokens."""
    order = [SAMPLES[i] for i in generator.permutation(len(SAMPLES))]
    inner = generator.choice(np.arange(1, len(order)), WORLD_SIZE * batches - 1, replace=False)
    cuts = [0, *np.sort(inner), len(order)]
    parts = [order[begin:end] for begin, end in pairwise(cuts)]
    return [[padded(part) for part in parts[rank::WORLD_SIZE]] for rank in range(WORLD_SIZE)]


def update_of(model, batches, precision, *, rate=0.0, optimizer=None, loss=loss_sum, **options):
    weight = sum(label_count(batch) for batch in batches)
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=rate)
    with precision.update(model, optimizer, weight=weight, **options) as update:
        for batch in batches:
            update.backward(loss, batch)
    return update


def gradients(rank):
    model, precision = sharded(make()), Precision("fp32")
    expected, _ = reference_of()
    errors, weights = [], set()
    for seed in range(20):
        share = shares_of(np.random.default_rng(seed), 1 + seed % 4)[rank]
        weights.add(update_of(model, share, precision).weight)
        errors.append(relative_error(full_gradient(model), expected))
    return {
        "errors": max(errors),
        "weights": list(weights),
        "weight": label_count(padded(SAMPLES)),
    }


def steps(rank):
    """A clipped step moves the parameters as one process would, on any mesh of data."""
    told = {}
    for name, shape in {"shards": (2,), "replicas": (2, 1), "both": (1, 2)}.items():
        names = ("shard",) if len(shape) == 1 else ("replicate", "shard")
        model = sharded(make(), init_device_mesh("cpu", shape, mesh_dim_names=names))
        share = shares_of(np.random.default_rng(1), 3)[rank]
        update = update_of(model, share, Precision("fp32"), rate=1.0, clip=0.01)
        gradient, parameters = reference_of(clip=0.01)
        told[name] = {
            "error": relative_error(flat(e.full_tensor() for e in model.parameters()), parameters),
            "norm": [update.grad_norm, gradient.norm().item()],
            "applied": update.applied,
        }
    return told


def not_finite(rank):
    """On one rank, or in one rank's shard only: all ranks skip, scales agree."""
    told = {}
    for mode in ("fp32", "fp16"):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=2)
        precision = Precision(mode, scaler=scaler if mode == "fp16" else None)
        model = fully_shard(torch.nn.Linear(3, 4, bias=False))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        rows = torch.arange(4)

        def loss(model, x, factor, rows=rows):
            return (model(x).float().square() * torch.where(rows == 0, factor, 1.0)).sum()

        applied, scales, moved = [], [], []
        for factors in ((1.0, 1.0), (1e38, 1.0), (1.0, 1.0), (1.0, float("nan")), (1.0, 1.0)):
            before = digest([model.weight.to_local()])
            with precision.update(model, optimizer, weight=1) as update:
                update.backward(partial(loss, factor=factors[rank]), 4 * torch.ones(2, 3))
            applied.append(update.applied)
            scales.append(precision.loss_scale)
            moved.append(digest([model.weight.to_local()]) != before)
        told[mode] = {"applied": applied, "scales": scales, "moved": moved}
    return told


def precisions(rank):
    share = [padded(SAMPLES[rank * 8 : rank * 8 + 8])]

    def attempt(given):
        model = sharded(make())
        return caught(partial(update_of, model, share, given)) or given.mode

    return {
        "different": attempt(Precision(("fp32", "bf16")[rank])),
        "auto": attempt(Precision("auto")),
        "measured": Precision.measure(sharded(make()), loss_sum, share[0]).mode,
    }


def one_row_on_one_rank(rank):
    """A batch that cannot be split, in the update that checks the loss."""
    model = sharded(make())
    share = [padded(SAMPLES[:1] if rank == 0 else SAMPLES[1:])]
    update_of(model, share, Precision("fp32"))
    return relative_error(full_gradient(model), reference_of()[0])


def failures(rank):
    """What ends the update on all ranks; the next is refused, as torch would get it wrong."""

    def broken(model, batch):
        raise KeyError("mine")

    share = shares_of(np.random.default_rng(1), 2)[rank]
    told = {}
    for name, direction in {"loss": "", "passes": "forward", "gradients": "backward"}.items():
        model = make()
        if direction:
            OutOfMemory(model, at=1, where=f"{direction} last layer")
        model = sharded(model)
        precision = Precision("fp32", check_loss=False)
        loss = loss_sum if direction else broken
        told[name] = [
            caught(partial(update_of, model, share, precision, loss=loss)),
            caught(partial(update_of, model, share, precision)),
        ]
    model = sharded(make())  # no pass was begun: nothing is broken
    told["no function"] = caught(partial(update_of, model, share, Precision("fp32"), loss=3))
    update_of(model, share, Precision("fp32"))
    told["next"] = relative_error(full_gradient(model), reference_of()[0])
    return told


def evaluation_between(rank):
    """It leaves the outermost parameters whole: the model is no less sharded."""
    model = fully_shard(make())
    with torch.no_grad():
        model(padded(SAMPLES)["input_ids"])
    share = shares_of(np.random.default_rng(1), 2)[rank]
    update = update_of(model, share, Precision("fp32"))
    return [relative_error(full_gradient(model), reference_of()[0]), update.weight]


def sinking_scale(rank):
    """The error names the layers, though each rank has only shards of their gradients."""
    model = sharded(make())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    precision = Precision("fp16", scaler=scaler, check_loss=False)

    def train():
        for _ in range(9):
            update_of(
                model,
                [padded(SAMPLES[:4])],
                precision,
                loss=lambda m, b: loss_sum(m, b) * (float("nan") if rank else 1.0),
            )

    return caught(train)


def refusals(rank):
    """Models whose gradients nobody would reduce, or not over all ranks."""

    def attempt(model):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        with Precision("fp32").update(model, optimizer, weight=1) as update:
            update.backward(lambda m, x: m(x).sum(), torch.ones(2, 4))

    partly = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
    fully_shard(partly[0])
    tensors = torch.nn.Linear(4, 2, bias=False)
    mesh = init_device_mesh("cpu", (2,))
    tensors.weight = torch.nn.Parameter(
        distribute_tensor(tensors.weight.detach(), mesh, [Shard(0)])
    )
    grid = init_device_mesh("cpu", (1, 2), mesh_dim_names=("data", "tensor"))
    parallel = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
    parallelize_module(parallel, grid["tensor"], {"0": ColwiseParallel(), "1": ColwiseParallel()})
    fully_shard(parallel, mesh=grid["data"])
    frozen = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
    frozen[1].requires_grad_(False)
    fully_shard(frozen[0])
    return {
        "partly": caught(partial(attempt, partly)),
        "tensors": caught(partial(attempt, tensors)),
        "tensor parallel": caught(partial(attempt, parallel)),
        "frozen": caught(partial(attempt, frozen)),
    }


if __name__ == "__main__":
    # Of torch, for every linear layer on sequences.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    run(
        [
            gradients,
            steps,
            not_finite,
            precisions,
            one_row_on_one_rank,
            failures,
            evaluation_between,
            sinking_scale,
            refusals,
        ]
    )
