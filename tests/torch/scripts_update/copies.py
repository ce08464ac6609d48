"""Ranks with copies of a model: what they do to its gradient, and to one another.

Every rank knows all samples and draws the same random numbers, so each can work out by itself
what the gradient of one batch of everything is.
"""

import copy
import os
from collections import OrderedDict
from contextlib import suppress
from functools import partial
from itertools import product

import numpy as np
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from batchwright.torch import Precision, windows
from batchwright.torch.update import ranks
from batchwright.torch.update import step as step_module
from batchwright.torch.update.gradient_check import flat_gradient, relative_error
from batchwright.torch.windows import label_count
from tests.torch.attention_model import Attention, loss_sum, padded, sequences
from tests.torch.scripts_update.process import caught, digest, run
from tests.torch.test_update import OutOfMemory, cut

SAMPLES = sequences(24)
WORLD_SIZE = 2


def make(seed=0, **options):
    torch.manual_seed(seed)
    return Attention(**options).eval()


def wrapped(model, **options):
    return DistributedDataParallel(model, **options)


def still(model):
    """An optimizer under which gradients can be compared: parameters stay as they are."""
    return torch.optim.SGD(model.parameters(), lr=0.0)


def reference_of(model, samples=SAMPLES):
    model = copy.deepcopy(model)
    model.zero_grad()
    batch = padded(samples)
    loss = loss_sum(model, batch) / label_count(batch)
    loss.backward()
    return flat_gradient(model), loss.item()


def shares_of(generator, samples=SAMPLES):
    """Deal samples to ranks and batches at random: unequal samples, tokens, batches."""
    order = [samples[i] for i in generator.permutation(len(samples))]
    first = generator.integers(1, len(order))
    return [batches_of(generator, part) for part in (order[:first], order[first:])]


def batches_of(generator, samples):
    batches = []
    while samples:
        size = generator.integers(1, 10)
        batches.append(padded(samples[:size]))
        samples = samples[size:]
    return batches


def update_of(model, batches, precision, optimizer=None, loss=loss_sum, **options):
    """Make an update of a rank's batches, weighed by their labels."""
    weight = sum(label_count(batch) for batch in batches)
    optimizer = still(model) if optimizer is None else optimizer
    weights = {} if "global_weight" in options else {"weight": weight}
    with precision.update(model, optimizer, **weights, **options) as update:
        for batch in batches:
            update.backward(loss, batch)
    return update


def gradients(rank, seeds=range(100)):
    model = make()
    expected, loss = reference_of(model)
    ddp, precision = wrapped(model), Precision("fp32")
    errors, losses, weights, unequal = [], [], set(), 0
    for seed in seeds:
        shares = shares_of(np.random.default_rng(seed))
        update = update_of(ddp, shares[rank], precision)
        errors.append(relative_error(flat_gradient(model), expected))
        losses.append(abs(update.loss - loss) / loss)
        weights.add(update.weight)
        unequal += len(shares[0]) != len(shares[1])
    return {
        "errors": max(errors),
        "losses": max(losses),
        "weights": list(weights),
        "weight": label_count(padded(SAMPLES)),
        "unequal": unequal,
        "told": [update.loss, update.grad_norm],
    }


def few_gradients(rank):
    return gradients(rank, seeds=range(3))


def one_rank_weighs_nothing(rank):
    """Because its labels are all ignored, or because it has no batch; from the first update on."""
    nothing = padded(SAMPLES[:3])
    nothing["labels"].fill_(-100)
    errors = {}
    for name, share in {"labels": [nothing], "batches": []}.items():
        for mode in ("fp32", "fp16"):
            for empty in (0, 1):
                model = make()
                expected, _ = reference_of(model)
                scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
                precision = Precision(mode, scaler=scaler if mode == "fp16" else None)
                ddp = wrapped(model)
                for _ in range(2):
                    mine = share if rank == empty else [padded(SAMPLES)]
                    update = update_of(ddp, mine, precision)
                error = relative_error(flat_gradient(model), expected)
                errors[f"{name} {mode} {empty}"] = [error, update.applied, precision.loss_scale]
    model = make()
    nobody = [
        caught(partial(update_of, wrapped(model), [], Precision(mode), global_weight=7))
        for mode in ("fp32", "auto")
    ]
    auto = caught(
        partial(
            update_of, wrapped(model), [] if rank == 0 else [padded(SAMPLES)], Precision("auto")
        )
    )
    return {"errors": errors, "nobody": nobody, "auto": auto}


class Branches(torch.nn.Module):
    """Rank 0 goes one way, rank 1 the other, and nobody the third."""

    def __init__(self):
        super().__init__()
        self.ways = torch.nn.ModuleList(torch.nn.Linear(4, 1) for _ in range(3))

    def forward(self, way, x):
        return self.ways[way](x)


def parameters_without_a_gradient(rank):
    model = Branches()
    before = copy.deepcopy(model.state_dict())
    inputs = torch.randn(2, 5, 4)
    reference = copy.deepcopy(model)
    torch.autograd.backward(sum(reference(way, inputs[way]).square().sum() for way in (0, 1)) / 10)
    ddp = wrapped(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    with Precision("fp32").update(ddp, optimizer, weight=5) as update:
        update.backward(lambda m, x: m(rank, x).square().sum(), inputs[rank])
    return {
        "error": relative_error(flat_gradient(model), flat_gradient(reference)),
        "has none": [name for name, each in model.named_parameters() if each.grad is None],
        "stays": [
            name for name, each in model.state_dict().items() if torch.equal(each, before[name])
        ],
        "parameters": digest(model.parameters()),
    }


def parameters_outside_of_the_model(rank):
    """One of the optimizer alone, as a temperature in the loss: its gradient counts too."""
    model = torch.nn.Linear(4, 1)
    temperature = torch.nn.Parameter(torch.ones(()))
    inputs = torch.randn(2, 5, 4)
    expected = (model(inputs.flatten(0, 1)).square().sum() / 10).item()
    optimizer = torch.optim.SGD([*model.parameters(), temperature], lr=0.1)
    with Precision("fp32").update(wrapped(model), optimizer, weight=5) as update:
        update.backward(lambda m, x: (m(x).square() * temperature).sum(), inputs[rank])
    return abs(temperature.grad.item() - expected) / expected


def out_of_memory(rank):
    """Memory runs out on some ranks, at each place and each position."""
    shares = cut(SAMPLES[:11], [4, 3, 2, 2]), cut(SAMPLES[11:], [6, 5, 2])
    expected, loss = reference_of(make())
    errors, losses, retries, splits = [], [], [], []
    for where in ("forward first layer", "forward last layer", "backward first layer"):
        for unlucky in ((0,), (1,), (0, 1)):
            for at, checked in product(range(3), (False, True)):
                model = make()
                ddp = wrapped(model)
                if rank in unlucky:
                    OutOfMemory(model, at=at, where=where)
                precision = Precision("fp32", check_loss=checked)
                update = update_of(ddp, shares[rank], precision)
                errors.append(relative_error(flat_gradient(model), expected))
                losses.append(abs(update.loss - loss) / loss)
                if not checked:  # else it is the check, whose passes come first
                    retries.append([update.retries, int(rank in unlucky)])
                    splits.append([update.splits, int(rank in unlucky)])
    return {
        "errors": max(errors),
        "losses": max(losses),
        "retries": retries,
        "splits": splits,
        "updates": len(errors),
    }


def at_first(model, batch):
    raise KeyError("mine")


def after_backward(model, batch):
    loss_sum(model, batch).backward()
    raise KeyError("mine")


def at_the_second_batch(model, batch):
    return after_backward(model, batch) if len(batch["labels"]) == 3 else loss_sum(model, batch)


def mean(model, batch):
    return loss_sum(model, batch) / label_count(batch)


def never_fits(model, batch):
    raise torch.OutOfMemoryError


BAD_LOSSES = {
    "no function": 3,
    "at first": at_first,
    "after backward": after_backward,
    "at the second batch": at_the_second_batch,
    "mean": mean,
    "never fits": never_fits,
}


def failures(rank):
    """One rank cannot go on: the other is told, nobody steps, and the next update is right."""
    told = {}
    batches = [padded(SAMPLES[:2]), padded(SAMPLES[2:5])]
    for mode, guilty, name in product(("fp32", "fp16", "auto"), range(WORLD_SIZE), BAD_LOSSES):
        model = make()
        ddp = wrapped(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        precision = Precision(mode, check_loss=name == "mean")
        before = digest(model.parameters())
        loss = BAD_LOSSES[name] if rank == guilty else loss_sum
        error = caught(partial(update_of, ddp, batches, precision, optimizer, loss=loss))
        told[f"{mode}, rank {guilty}, {name}"] = result = {
            "error": error,
            "guilty": rank == guilty,
            "cleared": all(each.grad is None for each in model.parameters()),
            "stays": digest(model.parameters()) == before,
        }
        expected, _ = reference_of(model)
        update = update_of(ddp, shares_of(np.random.default_rng(1))[rank], precision)
        result["next"] = relative_error(flat_gradient(model), expected)
        result["applied"] = update.applied
        result["mode"] = precision.mode
    return told


def swallowed(rank):
    """Rank 0 catches its error within the update, and would step on part of a gradient."""
    told = []
    for bad in (at_first, after_backward, at_the_second_batch):
        model = make()
        before = digest(model.parameters())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        ddp, precision = wrapped(model), Precision("fp32")

        def train(bad=bad, ddp=ddp, optimizer=optimizer, precision=precision):
            with precision.update(ddp, optimizer, weight=9) as update:
                for batch in (padded(SAMPLES[:2]), padded(SAMPLES[2:5])):
                    with suppress(KeyError, RuntimeError):
                        update.backward(bad if rank == 0 else loss_sum, batch)

        told.append([caught(train), digest(model.parameters()) == before])
    return told


def not_finite(rank):
    """Gradients that are not finite on one rank: all ranks skip, or none."""
    told = {}
    for mode in ("fp32", "bf16", "fp16"):
        model = make()
        ddp = wrapped(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=2)
        precision = Precision(mode, scaler=scaler if mode == "fp16" else None)
        generator = np.random.default_rng(3)
        applied, scales, digests = [], [], []
        for bad in ((1.0, 1.0), (float("inf"), 1.0), (1.0, 1.0), (1.0, float("nan")), (1.0, 1.0)):
            update = update_of(
                ddp,
                shares_of(generator)[rank],
                precision,
                optimizer,
                loss=lambda m, b, factor=bad[rank]: loss_sum(m, b) * factor,
                clip=1.0,
            )
            applied.append(update.applied)
            scales.append(precision.loss_scale)
            digests.append(digest(model.parameters()))
        told[mode] = {
            "applied": applied,
            "scales": scales,
            "digests": digests,
            "counters": [precision.applied, precision.skipped],
        }
    return told


def precisions(rank):
    """What ranks are given, and what they settle on."""

    def attempt(given):
        model = make()
        error = caught(partial(update_of, wrapped(model), [padded(SAMPLES[:4])], given))
        return error or given.mode

    def own():
        return Precision(lambda: torch.autocast("cpu", torch.bfloat16))

    model = wrapped(make())
    batch = padded(SAMPLES)
    measured = Precision.measure(model, loss_sum, batch)
    return {
        "different": attempt(Precision(("fp32", "bf16")[rank])),
        "auto and given": attempt(Precision(("auto", "bf16")[rank])),
        "own and given": attempt(own() if rank else Precision("bf16")),
        "own": attempt(own()),
        "auto": attempt(Precision("auto")),
        "given": attempt(Precision("bf16")),
        "measured": [measured.mode, attempt(measured)],
    }


def weights_of_others(rank):
    """global_weight given this rank's own weight by mistake; ranks of another group."""
    model = make()
    ddp = wrapped(model)
    mistaken = caught(
        partial(update_of, ddp, [padded(SAMPLES)], Precision("fp32"), global_weight=5 + rank)
    )
    shares = shares_of(np.random.default_rng(2))
    total = label_count(padded(SAMPLES))
    update_of(ddp, shares[rank], Precision("fp32"), global_weight=total)
    right = relative_error(flat_gradient(model), reference_of(model)[0])
    groups = [distributed.new_group([each]) for each in range(WORLD_SIZE)]
    alone = make()
    mine = SAMPLES[rank * 8 : rank * 8 + 8]
    update = update_of(
        wrapped(alone, process_group=groups[rank]), [padded(mine)], Precision("fp32")
    )
    expected, _ = reference_of(alone, mine)
    return {
        "mistaken": mistaken,
        "right": right,
        "group": relative_error(flat_gradient(alone), expected),
        "weight": [update.weight, label_count(padded(mine))],
    }


def plain_steps(rank):
    """DistributedDataParallel goes on as if no update had been made past it."""
    errors = {}
    inputs = torch.randn(2, 6, 4)
    for name, options in {
        "default": {},
        "views": {"gradient_as_bucket_view": True},
        "unused": {"find_unused_parameters": True},
    }.items():
        for before in ("nothing", "forward", "step"):
            torch.manual_seed(0)
            layers = {"mix": torch.nn.Linear(4, 4), "head": torch.nn.Linear(4, 1)}
            model = torch.nn.Sequential(OrderedDict(layers))
            reference = copy.deepcopy(model)
            ddp = wrapped(model, **options)
            if before == "forward":
                ddp(inputs[rank])
            if before == "step":
                ddp(inputs[rank]).sum().backward()
            if rank == 0:
                OutOfMemory(model, at=0, where="backward last layer")
            precision = Precision("fp32", check_loss=False)
            for _ in range(2):
                with precision.update(ddp, still(model), weight=6) as update:
                    for part in inputs[rank].split((2, 3)[rank]):
                        update.backward(lambda m, x: m(x).square().sum(), part)
            (reference(inputs.flatten(0, 1)).square().sum() / 12).backward()
            off = [relative_error(flat_gradient(model), flat_gradient(reference))]
            for _ in range(3):
                model.zero_grad()
                reference.zero_grad()
                ddp(inputs[rank]).sum().backward()
                (reference(inputs.flatten(0, 1)).sum() / 2).backward()
                off.append(relative_error(flat_gradient(model), flat_gradient(reference)))
            errors[f"{name}, after {before}"] = max(off)
    return errors


def buffers(rank):
    """Those of batch normalisation: at rest in evaluation, rank 0's after training."""
    told = {}
    for mode in ("eval", "train", "own"):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))
        model.train(mode != "eval")
        before = digest(model.buffers())
        ddp = wrapped(model)
        ddp.broadcast_buffers = mode != "own"
        torch.manual_seed(rank)
        for _ in range(2):
            with Precision("fp32").update(ddp, still(model), weight=3) as update:
                update.backward(lambda m, x: m(x).square().sum(), torch.randn(3, 4))
        alone = copy.deepcopy(model)
        told[mode] = {
            "stays": digest(model.buffers()) == before,
            "digest": digest(model.buffers()),
            "seen": int(alone[1].num_batches_tracked),
        }
    return told


def exchanging(rank):
    """Losses that exchange tensors: unequal batches, and a rank that knows less of its loss."""

    def loss(model, batch):
        rows = torch.tensor(float(len(batch["input_ids"])))
        distributed.all_reduce(rows)
        return loss_sum(model, batch) * rows / rows

    precision = Precision("fp32")
    model = make()
    expected, _ = reference_of(model, SAMPLES[:9])
    ddp = wrapped(model)
    batch = padded(SAMPLES[:8] if rank == 0 else SAMPLES[8:9])
    errors = []
    for _ in range(2):
        update_of(ddp, [batch], precision, loss=loss)
        errors.append(relative_error(flat_gradient(model), expected))
    (found,) = precision.findings._found.values()
    auto = caught(partial(update_of, ddp, [batch], Precision("auto"), loss=loss))
    return {"errors": errors, "kind": found.kind, "auto": auto}


def refusals(rank):
    """Wrappers under which the gradient would be wrong."""

    def attempt(model):
        with Precision("fp32").update(model, still(model), weight=1) as update:
            update.backward(lambda m, x: m(x).sum(), torch.ones(1, 4))

    linear = partial(torch.nn.Linear, 4, 1)
    ignoring = torch.nn.Sequential(linear())
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(ignoring, ["0.bias"])
    return {
        "inside": caught(partial(attempt, torch.nn.Sequential(wrapped(linear())))),
        "static": caught(partial(attempt, wrapped(linear(), static_graph=True))),
        "ignoring": caught(partial(attempt, wrapped(ignoring))),
    }


def sparse(rank):
    """Rows of an embedding that one rank, both or none has looked up; clipped by their norm."""
    errors, norms = [], []
    for seed in range(12):
        generator = np.random.default_rng(seed)
        shares = [torch.from_numpy(generator.integers(0, 30, (4, 3))) for _ in range(2)]
        mine = shares[rank] if seed % 3 or rank else None
        torch.manual_seed(seed)
        model = torch.nn.Sequential(torch.nn.Embedding(30, 4, sparse=True), torch.nn.Linear(4, 1))
        twin = torch.nn.Sequential(torch.nn.Embedding(30, 4), torch.nn.Linear(4, 1))
        twin.load_state_dict(model.state_dict())
        everyone = torch.cat([each for r, each in enumerate(shares) if seed % 3 or r])
        (twin(everyone).square().sum() / len(everyone)).backward()
        ddp, precision = wrapped(model), Precision("fp32")
        with precision.update(ddp, still(model), weight=0 if mine is None else 4) as update:
            if mine is not None:
                update.backward(lambda m, x: m(x).square().sum(), mine)
        gradient = torch.cat([p.grad.to_dense().flatten().double() for p in model.parameters()])
        errors.append(relative_error(gradient, flat_gradient(twin)))
        norms.append(update.grad_norm)
    return {"errors": max(errors), "norms": norms}


class Flaky(torch.optim.Adam):
    """Fails in its first steps, on the ranks and in the way that it is told."""

    def __init__(self, parameters, ways, lr=0.1):
        super().__init__(parameters, lr=lr)
        self.ways = list(ways)

    def step(self):
        way = self.ways.pop(0) if self.ways else None
        if way == "before":
            raise torch.OutOfMemoryError("CUDA out of memory")
        super().step()
        if way == "after":
            raise KeyError("mine")


def failing_steps(rank):
    """An optimizer that fails on one rank: neither goes on alone, and copies stay equal."""
    came = []
    ways = [(None, None), ("before", None), (None, "after"), ("before", "after"), (None, None)]
    for mode in ("fp32", "fp16"):
        model = make(seed=4)
        ddp = wrapped(model)
        optimizer = Flaky(model.parameters(), [each[rank] for each in ways])
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8) if mode == "fp16" else None
        precision = Precision(mode, scaler=scaler)
        for _ in ways:
            share = [padded(SAMPLES[rank::2])]
            options = {"learning_rate": lambda _: 0.5}
            before = digest([*model.parameters()])
            error = caught(partial(update_of, ddp, share, precision, optimizer, **options))
            moved = digest([*model.parameters()]) != before
            rate = optimizer.param_groups[0]["lr"]
            held = [value for state in optimizer.state.values() for value in state.values()]
            states = digest([*model.parameters(), *held])
            name = None if error is None else error[0]
            came.append([name, rate, precision.loss_scale, states, moved])
    return came


class FailingReduction(ranks.Reduction):
    """Cannot copy the first gradient into its message."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        (sent, ((gradient, place), *others)), *rest = self._dense
        sent.zero_()  # else what it holds by chance may not be finite
        self._dense = [(sent, [(gradient, place.flatten()[:-1]), *others]), *rest]


def failing_reduction(rank):
    """An error while gradients are sent: no rank steps on part of their sum."""
    model = make()
    ddp, optimizer = wrapped(model), torch.optim.SGD(model.parameters(), lr=0.1)
    before = digest(model.parameters())
    if rank == 1:
        step_module.Reduction = FailingReduction
    share, precision = [padded(SAMPLES[rank::2])], Precision("fp32")
    error = caught(partial(update_of, ddp, share, precision, optimizer))
    step_module.Reduction = ranks.Reduction
    return {"error": error, "stays": digest(model.parameters()) == before}


def windows_without_labels(rank):
    """A rank whose labels are all ignored, and a loop that passes over what weighs nothing."""
    model = torch.nn.Linear(3, 2)
    ddp, precision, came = wrapped(model), Precision("fp32"), []
    for step in range(4):
        labels = torch.full((2,), -100 if step == 3 or (rank, step) == (1, 2) else 1)
        for window in windows([(torch.ones(2, 3), labels)], accumulate=1):
            if window.tokens:
                with precision.update(ddp, still(model), weight=window.tokens) as update:
                    for batch in window:
                        update.backward(
                            lambda m, b: torch.nn.functional.cross_entropy(
                                m(b[0]), b[1], reduction="sum"
                            ),
                            batch,
                        )
                came.append([update.applied, update.weight])
    return came


def many_gradients(rank):
    """More than one bucket, several types, one larger than a bucket, one not in one piece."""
    ranks._BUCKET = 1000
    model = torch.nn.Sequential(
        *(torch.nn.Embedding(4, width) for width in (500, 30, 40, 50)),
        torch.nn.Conv2d(3, 4, 2).to(memory_format=torch.channels_last),
    )
    model[1].double()
    inputs, images = torch.arange(4), torch.randn(4, 3, 3, 3)

    def loss(model, rows):
        parts = [*(model[i](rows) for i in range(4)), model[4](images[rows])]
        return sum(part.float().square().sum() for part in parts)

    with Precision("fp32").update(wrapped(model), still(model), weight=2) as update:
        update.backward(loss, inputs[rank::2])
    reference = copy.deepcopy(model)
    reference.zero_grad()
    (loss(reference, inputs) / 4).backward()
    return relative_error(flat_gradient(model), flat_gradient(reference))


def resume(rank):
    """Saved after two updates; the third is the same, bit for bit, after loading."""

    def made(seed):
        model = make(seed)
        return wrapped(model), torch.optim.AdamW(model.parameters(), lr=0.01)

    generator = np.random.default_rng(7)
    shares = [shares_of(generator)[rank] for _ in range(3)]
    told = {}
    for mode in ("fp32", "fp16"):
        ddp, optimizer = made(0)
        precision = Precision(mode)
        for share in shares[:2]:
            update_of(ddp, share, precision, optimizer, clip=1.0)
        saved = copy.deepcopy((ddp.state_dict(), optimizer.state_dict(), precision.state_dict()))
        expected = update_of(ddp, shares[2], precision, optimizer, clip=1.0)
        again, other = made(9)
        for given in (mode, "auto"):
            loaded = Precision(given)
            again.load_state_dict(saved[0])
            other.load_state_dict(copy.deepcopy(saved[1]))
            loaded.load_state_dict(copy.deepcopy(saved[2]))
            update = update_of(again, shares[2], loaded, other, clip=1.0)
            told[f"{mode} into {given}"] = {
                "same": digest(again.parameters()) == digest(ddp.parameters()),
                "loss": [update.loss, expected.loss],
                "mode": loaded.mode,
                "scale": [loaded.loss_scale, precision.loss_scale],
            }
    return told


def gone(rank):
    """Rank 1 is killed within an update. Comes last: it does not come back."""
    model = make()
    ddp = wrapped(model)

    def ends(model, batch):
        if rank == 1:
            os._exit(3)
        raise KeyError("mine") if batch["input_ids"].shape[0] == 1 else ValueError("other")

    precision = Precision("fp32", check_loss=False)
    own = caught(partial(update_of, ddp, [padded(SAMPLES[:1])], precision, loss=ends))
    waiting = caught(partial(update_of, ddp, [padded(SAMPLES[:4])], precision))
    return {"own": own, "waiting": waiting}


if __name__ == "__main__":
    run(
        [
            gradients,
            few_gradients,
            one_rank_weighs_nothing,
            parameters_without_a_gradient,
            parameters_outside_of_the_model,
            out_of_memory,
            failures,
            swallowed,
            not_finite,
            precisions,
            weights_of_others,
            plain_steps,
            buffers,
            exchanging,
            refusals,
            sparse,
            failing_steps,
            failing_reduction,
            windows_without_labels,
            many_gradients,
            resume,
            gone,
        ]
    )
