"""Train with losses of many kinds, sums over rows and others, while memory runs out.

    python -m tests.stress.losses --cases 1000 --seed 0

Each case draws a loss, a model and a batch, and an amount of rows that fits. An update must have
the gradient of the whole batch (to 1e-6), or be refused with the reason: a mean before anything is
trained on, other losses that are no sums where a batch would have to be split. None may be refused
where all rows fit. A case is a function of its seed.
"""

import argparse
import contextlib
import copy
import random
import sys
import traceback
from collections import Counter

import torch
from torch import nn
from torch.nn import functional

import batchwright as bw
from batchwright.torch import Precision

NEAR = 1e-6


def entropy(model, batch, reduction="sum"):
    return functional.cross_entropy(model(batch["x"]), batch["y"], reduction=reduction)


def mean(model, batch):
    return entropy(model, batch, "mean")


def mean_of_some(model, batch):
    """A mean over positive rows, as detectors take it."""
    losses = entropy(model, batch, "none")
    weights = 1 + (batch["y"] == 0)
    return (losses * weights).sum() / weights.sum()


def scaled_mean(model, batch):
    return entropy(model, batch, "mean") / 3


def squares(model, batch):
    return (model(batch["x"]) - batch["z"]).square().sum()


def weighted(model, batch):
    return (entropy(model, batch, "none") * batch["w"]).sum()


def with_dict_output(model, batch):
    assert model.training, "losses in training only"
    return sum({"a": entropy(model, batch), "b": 0.1 * squares(model, batch)}.values())


def forces(model, batch):
    x = batch["x"].detach().requires_grad_()
    energy = model(x)[:, 0]
    (force,) = torch.autograd.grad(energy.sum(), x, create_graph=True)
    return energy.square().sum() + force.square().sum()


def given_advantages(model, batch):
    scores = functional.log_softmax(model(batch["x"]), 1).gather(1, batch["y"][:, None])[:, 0]
    return -(torch.exp(scores - scores.detach()) * batch["advantage"]).sum()


def texts(model, batch):
    labels = torch.tensor([len(each) % 4 for each in batch["texts"]])
    return functional.cross_entropy(model(batch["x"]), labels, reduction="sum")


def contrastive(model, batch):
    out = functional.normalize(model(batch["x"]), dim=1)
    scores = 5 * out @ functional.normalize(batch["z"], dim=1).T
    return functional.cross_entropy(scores, torch.arange(len(scores)), reduction="sum")


def pairs_of_labels(model, batch):
    out = model(batch["x"])
    apart = torch.cdist(out, out)
    same = batch["y"][:, None] == batch["y"]
    return torch.where(same, apart, functional.relu(1 - apart)).sum()


def own_advantages(model, batch):
    scores = functional.log_softmax(model(batch["x"]), 1).gather(1, batch["y"][:, None])[:, 0]
    advantage = batch["w"] - batch["w"].mean()
    return -(torch.exp(scores - scores.detach()) * advantage).sum()


def with_balance(model, batch):
    """A small term over the batch beside the sum, as of experts that share the load."""
    out = model(batch["x"])
    share = out.softmax(1).mean(0)
    return entropy(model, batch) + 0.05 * (share * share).sum() * len(out)


def with_decay(model, batch):
    return entropy(model, batch) + 0.01 * sum(p.square().sum() for p in model.parameters())


def dice(model, batch):
    out, labels = model(batch["x"]).sigmoid(), batch["z"] > 0
    return 1 - 2 * (out * labels).sum() / (out.sum() + labels.sum())


def hardest(model, batch):
    losses = entropy(model, batch, "none")
    return losses.topk(max(1, len(losses) // 2)).values.sum()


def standardised(model, batch):
    out = model(batch["x"])
    out = (out - out.mean(0)) / (out.var(0, unbiased=False) + 1e-5).sqrt()
    return functional.cross_entropy(out, batch["y"], reduction="sum")


def variance(model, batch):
    return (model(batch["x"]).mean(0) - batch["z"].mean(0)).square().sum()


def mixed_up(model, batch):
    other = torch.randperm(len(batch["x"]))
    out = model(0.7 * batch["x"] + 0.3 * batch["x"][other])
    return functional.cross_entropy(out, batch["y"], reduction="sum")


SUMS = (entropy, squares, weighted, with_dict_output, forces, given_advantages, texts)
MEANS = (mean, mean_of_some, scaled_mean)
OTHERS = (
    *(contrastive, pairs_of_labels, own_advantages, with_balance, with_decay, dice, hardest),
    *(standardised, variance, mixed_up),
)


class Residual(nn.Module):
    def __init__(self, width, dropout):
        super().__init__()
        self.inside = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.Dropout(dropout)
        )

    def forward(self, x):
        return x + self.inside(x).tanh()


def model_of(draw, dropout, statistics):
    width = draw.choice([4, 8, 32])
    layers = [nn.Linear(6, width)]
    kinds = [nn.Tanh, nn.GELU, lambda: Residual(width, dropout)]
    layers += [draw.choice(kinds)() for _ in range(draw.randint(0, 3))]
    if statistics:
        layers.append(nn.BatchNorm1d(width))
    return nn.Sequential(*layers, nn.Dropout(dropout), nn.Linear(width, 4))


def batch_of(rows):
    w = torch.rand(rows)
    return {
        "x": torch.randn(rows, 6),
        "y": torch.randint(4, (rows,)),
        "z": torch.randn(rows, 4),
        "w": w,
        "advantage": w - w.mean(),
        "texts": ["a" * int(n) for n in torch.randint(1, 9, (rows,))],
    }


def gradient_of(model):
    return torch.cat([p.grad.flatten().double() for p in model.parameters() if p.grad is not None])


def run_case(seed):
    """Return what came of a case, or raise what is wrong."""
    draw = random.Random(seed)  # noqa: S311
    torch.manual_seed(seed)
    kinds = draw.choice([SUMS, MEANS, OTHERS])
    loss = draw.choice(kinds)
    statistics = kinds is SUMS and draw.random() < 0.2
    random_numbers = loss is mixed_up
    dropout = draw.choice([0.0, 0.0, 0.4])
    rows = draw.choice([2, 3, 8, 16, 33])
    model = model_of(draw, dropout, statistics)
    # Of a loss of which two rows never fit, nothing can be found out.
    fits = draw.choice([rows, rows, max(2, rows // 2), max(2, rows // 4)])
    batch = batch_of(rows)

    def loss_sum(model, batch):
        if len(batch["x"]) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return loss(model, batch)

    twin = copy.deepcopy(model)
    state = torch.get_rng_state()
    (loss(twin, batch) / rows).backward()
    torch.set_rng_state(state)
    precision = Precision("fp32")
    for _ in range(2):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        state = torch.get_rng_state()
        try:
            with precision.update(model, optimizer, weight=rows) as update:
                update.backward(loss_sum, batch)
        except bw.errors.LossError:
            assert kinds is MEANS, "a loss that is no mean was refused as one"
            return "mean: refused"
        except bw.errors.UpdateError as error:
            assert fits < rows, f"refused where all rows fit: {error}"
            assert kinds is not SUMS or statistics, f"a sum was refused: {error}"
            return f"{'mean' if kinds is MEANS else 'no sum'}: refused to split"
        if update.splits:
            assert kinds is SUMS, f"{loss.__name__} is no sum, and was split"
            assert not statistics, "statistics over rows were split"
        if not (update.splits and dropout) and not random_numbers:
            far = gradient_of(model) - gradient_of(twin)
            error = float(far.norm() / gradient_of(twin).norm().clamp_min(1e-9))
            assert error <= NEAR, f"the gradient is {error:.2g} off"
        torch.set_rng_state(state)
    assert kinds is not MEANS, "a mean was trained on"
    return f"{'sum' if kinds is SUMS else 'no sum'}: {'split' if update.splits else 'whole'}"


def main(words=None):
    """Run many cases; return 1 if any is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="of the first case; the next have +1")
    asked = parser.parse_args(words)
    torch.set_num_threads(1)
    came, wrong = Counter(), 0
    with contextlib.suppress(KeyboardInterrupt):
        for seed in range(asked.seed, asked.seed + asked.cases):
            try:
                came[run_case(seed)] += 1
            except Exception:  # noqa: BLE001
                wrong += 1
                print(f"seed {seed}: {traceback.format_exc(limit=-2)}")
            if (seed + 1) % 100 == 0:
                print(f"\r{seed + 1 - asked.seed} of {asked.cases}", end="", file=sys.stderr)
    print(file=sys.stderr)
    for what, count in sorted(came.items()):
        print(f"{count:6} {what}")
    print(f"{sum(came.values()) + wrong} cases, {wrong} wrong")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
