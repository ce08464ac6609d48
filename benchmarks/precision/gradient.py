"""The gradient of an update, beside the one of a single batch of everything."""

from collections.abc import Iterator

import numpy as np
import torch

from batchwright.torch import Precision
from batchwright.torch.update.gradient_check import flat_gradient, relative_error
from benchmarks.claims.claim import Claim, Samples
from benchmarks.precision.language_model import (
    Batch,
    Ledger,
    loss_sum,
    make,
    padded,
    sentences,
    token_count,
)

WIDTH = 32
SAMPLES = 48
LONGEST = 48
SPLITS = 100


def splits(rounds: Samples) -> Iterator[Claim]:
    """Cut the same samples into batches at random, and make one update of them."""
    sequences = sentences(SAMPLES, longest=LONGEST)
    model = make(WIDTH)
    reference = _of_one_batch(model, padded(sequences, range(SAMPLES)))
    rng = np.random.default_rng(0)
    errors, means, slots = [], [], []
    for _ in range(rounds(SPLITS)):
        batches = _random_batches(sequences, rng)
        errors.append(relative_error(_of_an_update(model, batches), reference))
        means.append(relative_error(_of_means(model, batches), reference))
        slots.append(len(batches))
    subject = f"gradient of {SAMPLES} samples cut into batches at random, fp32"
    how = f"largest of {len(errors)} splits into {min(slots)} to {max(slots)} batches"
    yield Claim(
        subject,
        "relative error to one batch of everything",
        max(errors),
        at_most=1e-6,
        at_any_size=True,
        note=f"{how}; median {np.median(errors):.2g}",
        more={"errors": errors},
    )
    yield Claim(
        subject,
        "the same, of the mean of the batches' means",
        float(np.median(means)),
        note=f"median of the same splits, {min(means):.2g} to {max(means):.2g}",
        more={"errors": means},
    )


def out_of_memory(rounds: Samples) -> Iterator[Claim]:
    """Run out of memory at every layer, forward and backward, in every batch of a window."""
    sequences = sentences(SAMPLES, longest=LONGEST)
    order = np.random.default_rng(1).permutation(SAMPLES)
    batches = [padded(sequences, part.tolist()) for part in np.array_split(order, 5)]
    plain = make(WIDTH, layers=1)
    reference = _of_one_batch(plain, padded(sequences, range(SAMPLES)))
    places = [
        (layer, direction, number, times)
        for layer in _layers(plain)
        for direction in ("forward", "backward")
        if (layer, direction) != ("embed", "backward")  # nothing flows out of it
        for number in range(len(batches))
        for times in (1, 2)
    ]
    step = max(1, len(places) // rounds(len(places)))
    errors, retries, used = [], 0, True
    for layer, direction, number, times in places[::step]:
        model = Ledger(make(WIDTH, layers=1), SAMPLES)
        failure = Failure(model.model.get_submodule(layer), direction, number, times)
        update = _update(model, batches, Precision("fp32", check_loss=False))
        assert failure.left == 0, f"{layer} {direction} was not reached in batch {number}"
        assert update.retries == times
        seen, weight = model.seen.grad, update.weight
        assert seen is not None
        used = used and torch.allclose(seen * weight, torch.ones(SAMPLES), rtol=1e-6)
        errors.append(relative_error(flat_gradient(model.model), reference))
        retries += update.retries
    subject = "an update that ran out of memory, fp32"
    yield Claim(
        subject,
        "relative error to one batch of everything",
        max(errors),
        at_most=1e-6,
        at_any_size=True,
        note=f"largest of {len(errors)} windows: each layer, forward and backward, in each of "
        f"{len(batches)} batches, once and twice; {retries} retries",
        more={"errors": errors},
    )
    yield Claim.true(subject, "every sample used exactly once", used)


class Failure:
    """Runs out of memory in a layer as torch does, in one batch of a window."""

    def __init__(self, layer: torch.nn.Module, direction: str, number: int, times: int) -> None:
        self.number, self.left, self.calls = number, times, 0
        if direction == "forward":
            layer.register_forward_hook(self)
        else:
            layer.register_full_backward_hook(self)

    def __call__(self, *_: object) -> None:
        self.calls += 1
        if self.left and self.calls > self.number:
            self.left -= 1
            raise torch.OutOfMemoryError("injected")


def _layers(model: torch.nn.Module) -> list[str]:
    """Name the layers that are called: those inside of attention are not."""
    names = [name for name, each in model.named_modules() if name]
    return [
        name
        for name in names
        if "self_attn." not in name
        and (name.endswith("self_attn") or not any(n.startswith(name + ".") for n in names))
        and "dropout" not in name
    ]


def _random_batches(sequences: list[torch.Tensor], rng: np.random.Generator) -> list[Batch]:
    order = rng.permutation(len(sequences)).tolist()
    batches = []
    while order:
        size = int(rng.integers(1, 13))
        batches.append(padded(sequences, order[:size]))
        del order[:size]
    return batches


def _of_one_batch(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    model.zero_grad(set_to_none=True)
    (loss_sum(model, batch) / token_count(batch)).backward()
    return flat_gradient(model)


def _of_an_update(model: torch.nn.Module, batches: list[Batch]) -> torch.Tensor:
    _update(model, batches, Precision("fp32"))
    return flat_gradient(model)


def _update(model: torch.nn.Module, batches: list[Batch], precision: Precision):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    weight = sum(token_count(batch) for batch in batches)
    with precision.update(model, optimizer, weight=weight) as update:
        for batch in batches:
            update.backward(loss_sum, batch)
    return update


def _of_means(model: torch.nn.Module, batches: list[Batch]) -> torch.Tensor:
    model.zero_grad(set_to_none=True)
    for batch in batches:
        (loss_sum(model, batch) / token_count(batch) / len(batches)).backward()
    return flat_gradient(model)
