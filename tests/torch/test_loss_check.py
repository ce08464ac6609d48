"""What a loss is: a sum over rows, a mean, or neither; found out without leaving a trace."""

import copy
import functools
import random
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import batchwright as bw
from batchwright._records import kept_back
from batchwright.errors import LossError, UpdateError
from batchwright.torch import LiveLosses, PackCollator, PadCollator, Precision
from batchwright.torch.data.rows import halves
from batchwright.torch.update.loss_check import LossFindings, Trial, check_loss
from batchwright.torch.update.measuring import policy_for
from batchwright.torch.update.passes import FixedRandomness, identity


def kind_of(loss_sum, model, batch, mode="fp32", split=halves):
    policy = policy_for(mode, torch.device("cpu"))
    return check_loss(Trial(loss_sum, model, batch, split, policy))


def net(*, dropout=0.0):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 4))


X = torch.randn(16, 6, generator=torch.Generator().manual_seed(1))
Y = torch.arange(16) % 4


def cross_entropy(reduction):
    def loss_sum(model, batch):
        return functional.cross_entropy(model(batch[0]), batch[1], reduction=reduction)

    loss_sum.__name__ = reduction
    return loss_sum


def in_batch_negatives(model, batch):
    scores = (
        functional.normalize(model(batch[0]), dim=1)
        @ functional.normalize(batch[0][:, :4], dim=1).T
    )
    return functional.cross_entropy(5 * scores, torch.arange(len(scores)), reduction="sum")


def group_relative(model, batch):
    """Advantages relative to the batch's own mean: zero in sum, whatever the parameters."""
    scores = functional.log_softmax(model(batch[0]), 1).gather(1, batch[1][:, None])[:, 0]
    reward = batch[0].sum(1)
    advantage = reward - reward.mean()
    return -(torch.exp(scores - scores.detach()) * advantage).sum()


def given_advantages(model, batch):
    scores = functional.log_softmax(model(batch[0]), 1).gather(1, batch[1][:, None])[:, 0]
    return -(torch.exp(scores - scores.detach()) * batch[2]).sum()


def with_weight_decay(model, batch):
    return cross_entropy("sum")(model, batch) + sum(
        each.square().sum() for each in model.parameters()
    )


def mean_over_steps(model, batch):
    return cross_entropy("mean")(model, batch) / 4


def forces(model, batch):
    """A derivative inside of the loss, as of energies and forces."""
    x = batch[0].detach().requires_grad_()
    energy = model(x)
    (force,) = torch.autograd.grad(energy.sum(), x, create_graph=True)
    return energy.square().sum() + force.square().sum()


def mixed_up(model, batch):
    """Rows are mixed with other rows drawn at random."""
    other = torch.randperm(len(batch[0]))
    out = model(0.7 * batch[0] + 0.3 * batch[0][other])
    return functional.cross_entropy(out, batch[1], reduction="sum")


def hardest(model, batch):
    return functional.cross_entropy(model(batch[0]), batch[1], reduction="none").max()


ADVANTAGES = torch.linspace(-1, 1, 16) - torch.linspace(-1, 1, 16).mean()


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("mode", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("loss_sum", "kind"),
    [
        (cross_entropy("sum"), "sum"),
        (cross_entropy("mean"), "mean"),
        (mean_over_steps, "mean"),
        (in_batch_negatives, "coupled"),
        (group_relative, "coupled"),
        (given_advantages, "sum"),
        (with_weight_decay, "coupled"),
        (forces, "sum"),
        (mixed_up, "coupled"),
        (hardest, "coupled"),
    ],
    ids=lambda each: each if isinstance(each, str) else getattr(each, "__name__", "loss"),
)
def test_what_a_loss_is_by_passes_in_training(loss_sum, kind, mode, dropout):
    assert kind_of(loss_sum, net(dropout=dropout), (X, Y, ADVANTAGES), mode).kind == kind


@pytest.mark.parametrize(
    "layer", [nn.BatchNorm1d(16), nn.BatchNorm1d(16, track_running_stats=False)]
)
def test_statistics_over_rows_couple_them(layer):
    model = net()
    model[2] = layer
    assert kind_of(cross_entropy("sum"), model, (X, Y)).kind == "coupled"


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_few_rows_are_enough(reduction, rows):
    assert kind_of(cross_entropy(reduction), net(), (X[:rows], Y[:rows])).kind == reduction


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("lengths", [(30, 40, 50), (7,)])
def test_a_packed_row_is_cut_between_documents(reduction, lengths):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 50))
    batch = PackCollator()([{"input_ids": torch.randint(0, 50, (n,)).tolist()} for n in lengths])

    def loss_sum(model, batch):
        scores = model(batch["input_ids"]).transpose(1, 2)
        return functional.cross_entropy(scores, batch["labels"], reduction=reduction)

    expected = reduction if len(lengths) > 1 else "unknown"
    assert kind_of(loss_sum, model, batch).kind == expected


def test_a_half_without_labels_says_nothing():
    labels = Y.clone()
    labels[:2] = -100
    assert kind_of(cross_entropy("mean"), net(), (X[:4], labels[:4])).kind == "unknown"
    precision, model = Precision("fp32"), net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with precision.update(model, optimizer, weight=2) as update:
        update.backward(cross_entropy("mean"), (X[:4], labels[:4]))
    assert update.applied
    with (
        pytest.raises(bw.errors.LossError, match="looks like a mean"),
        precision.update(model, optimizer, weight=4) as update,
    ):
        update.backward(cross_entropy("mean"), (X[:4], Y[:4]))


class Detector(nn.Module):
    """Losses in training, predictions in evaluation, as of torchvision."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(6, 2)

    def forward(self, x, target):
        out = self.head(x)
        if self.training:
            return {"box": functional.mse_loss(out, target, reduction="sum")}
        return [{"boxes": row} for row in out]


def test_the_model_stays_in_training():
    model = Detector()
    loss_sum = lambda model, batch: sum(model(*batch).values())  # noqa: E731
    assert kind_of(loss_sum, model, (X, torch.zeros(16, 2))).kind == "sum"
    assert model.training


def everything_of(model):
    return (
        [each.clone() for each in (*model.parameters(), *model.buffers())],
        [each.grad for each in model.parameters()],
        torch.get_rng_state(),
        random.getstate(),
        str(np.random.get_state()),  # noqa: NPY002
    )


def test_no_trace_is_left():
    model = net(dropout=0.5)
    model[2] = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(16))
    nn.utils.parametrizations.spectral_norm(model[0])
    stepped = []
    for each in model.parameters():
        each.grad = torch.ones_like(each)
        each.register_post_accumulate_grad_hook(lambda *_: stepped.append(1))
    table = bw.LossTable(16)

    def loss_sum(model, batch):
        losses = functional.cross_entropy(model(batch[0]), batch[1], reduction="none")
        table.record(np.arange(len(losses)), losses.detach().numpy())
        return losses.sum() * (1 + 0 * random.random() * np.random.rand())  # noqa: S311, NPY002

    before = everything_of(model)
    kind_of(loss_sum, model, (X, Y))
    after = everything_of(model)
    assert all(map(torch.equal, before[0], after[0]))
    assert all(a is b for a, b in zip(before[1], after[1], strict=True))
    assert torch.equal(before[2], after[2])
    assert before[3:] == after[3:]
    assert not stepped
    assert np.isnan(table.losses).all()


def test_a_check_that_fails_warns_once_and_trains():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def sixteen(model, batch):
        assert len(batch[0]) == 16, "only whole batches"
        return cross_entropy("sum")(model, batch)

    precision = Precision("fp32")
    with (
        pytest.warns(UserWarning, match=r"only whole batches.*check_loss=False") as caught,
        precision.update(model, optimizer, weight=16) as update,
    ):
        update.backward(sixteen, (X, Y))
    assert update.applied
    assert len(caught) == 1
    assert caught[0].filename == __file__
    with warnings.catch_warnings(), precision.update(model, optimizer, weight=16) as update:
        warnings.simplefilter("error")
        update.backward(sixteen, (X, Y))
    assert update.applied


@pytest.mark.parametrize(
    ("loss_sum", "said"),
    [(in_batch_negatives, "no sum over rows"), (cross_entropy("sum"), None)],
    ids=["coupled", "sum"],
)
@pytest.mark.parametrize("seen_before", [False, True])
def test_only_a_sum_is_split(loss_sum, said, seen_before):
    model, precision = net(dropout=0.5), Precision("fp32")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    fits = 99 if seen_before else 8

    def limited(model, batch):
        if len(batch[0]) > fits:
            raise torch.OutOfMemoryError
        return loss_sum(model, batch)

    def update():
        with precision.update(model, optimizer, weight=16) as update:
            update.backward(limited, (X, Y))
        return update

    if seen_before:
        assert update().splits == 0
        fits = 8
    if said is None:
        assert update().splits == 1
        return
    for _ in range(2):
        with pytest.raises(bw.errors.UpdateError, match=said):
            update()
        assert all(each.grad is None for each in model.parameters())
    fits = 99
    assert update().applied


def test_what_is_not_known_is_not_split():
    model, precision = net(), Precision("fp32")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)

    def never_in_parts(model, batch):
        assert len(batch[0]) == 16
        raise torch.OutOfMemoryError

    with (
        pytest.raises(bw.errors.UpdateError, match="not known whether loss_sum is a sum"),
        precision.update(model, optimizer, weight=16) as update,
    ):
        update.backward(never_in_parts, (X, Y))


def test_with_little_memory_losses_alone_are_compared():
    model = net()

    def limited(model, batch):
        if len(batch[0]) > 1 and torch.is_grad_enabled():
            raise torch.OutOfMemoryError
        return cross_entropy("sum")(model, batch)

    assert kind_of(limited, model, (X, Y)).kind == "sum"


def test_each_loss_function_is_looked_at_once_however_often_it_is_made():
    calls = []

    def made(scale):
        def loss_sum(model, batch):
            calls.append(len(batch[0]))
            return scale * cross_entropy("sum")(model, batch)

        return loss_sum

    model, precision = net(), Precision("fp32")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for scale in (1.0, 2.0, 3.0):
        with precision.update(model, optimizer, weight=16) as update:
            update.backward(made(scale), (X, Y))
    assert [each for each in calls if each == 16] == [16] * 3
    assert len(calls) == 3 + 3
    with (
        pytest.raises(bw.errors.LossError, match="looks like a mean"),
        precision.update(model, optimizer, weight=16) as update,
    ):
        update.backward(cross_entropy("mean"), (X, Y))


def test_findings_forget_functions_on_their_way_to_another_process():
    findings = LossFindings()
    policy = policy_for("fp32", torch.device("cpu"))
    model = net()
    findings.check(Trial(cross_entropy("sum"), model, (X, Y), halves, policy))
    assert copy.deepcopy(findings)._found == {}
    assert identity(cross_entropy("sum")) == identity(cross_entropy("sum"))


class Loss(nn.Module):
    """A loss with a setting, and a record of what it has seen."""

    def __init__(self, reduction):
        super().__init__()
        self.criterion = nn.CrossEntropyLoss(reduction=reduction)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, model, batch):
        self.seen += len(batch[0])
        return self.criterion(model(batch[0]), batch[1])


def reduced(model, batch, reduction):
    return functional.cross_entropy(model(batch[0]), batch[1], reduction=reduction)


LOSSES = {
    "closure": cross_entropy,
    "partial": lambda reduction: functools.partial(reduced, reduction=reduction),
    "default": lambda reduction: lambda model, batch, how=reduction: reduced(model, batch, how),
    "module": Loss,
    "method": lambda reduction: Loss(reduction).forward,
    "criterion": lambda reduction: functools.partial(Loss.forward, Loss(reduction)),
}


@pytest.mark.parametrize("make", LOSSES.values(), ids=LOSSES)
def test_losses_of_one_code_with_other_settings_are_told_apart(make):
    model, precision = net(), Precision("fp32")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        with precision.update(model, optimizer, weight=16) as update:
            update.backward(make("sum"), (X, Y))
    assert len(precision.findings._found) == 1
    with (
        pytest.raises(LossError, match="looks like a mean"),
        precision.update(model, optimizer, weight=16) as update,
    ):
        update.backward(make("mean"), (X, Y))


def test_losses_that_are_new_in_every_update_are_told_apart_for_a_while():
    model, precision = net(), Precision("fp32")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    for number in range(40):
        loss_sum = functools.partial(lambda model, batch, name: reduced(model, batch, "sum"))
        with precision.update(model, optimizer, weight=16) as update:
            update.backward(functools.partial(loss_sum, name=f"batch {number}"), (X, Y))
    assert len(precision.findings._found) == 33


MODULE = Loss("sum")


@pytest.mark.parametrize("out_of_memory", [False, True])
@pytest.mark.parametrize("place", ["global", "closure", "module", "partial"])
def test_buffers_of_a_loss_count_a_batch_once(place, out_of_memory):
    module = MODULE if place == "global" else Loss("sum")
    module.seen.zero_()
    calls = {
        "global": lambda model, batch: 1.0 * MODULE(model, batch),
        "closure": lambda model, batch: 1.0 * module(model, batch),
        "module": module,
        "partial": functools.partial(lambda model, batch, loss: loss(model, batch), loss=module),
    }
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def overflow(module, args):
        if out_of_memory and len(args[0]) > 8:
            raise MemoryError

    model[2].register_forward_pre_hook(overflow)
    precision = Precision("fp32")
    for updates in (1, 2):
        with precision.update(model, optimizer, weight=16) as update:
            update.backward(calls[place], (X, Y))
        assert update.applied
        assert update.retries == (out_of_memory and updates == 1)
        assert float(module.seen) == 16 * updates


@pytest.mark.parametrize("seed", range(3))
def test_random_numbers_are_the_same_for_every_row(seed):
    torch.manual_seed(seed)
    model = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.4, batch_first=True)
    lstm = nn.LSTM(8, 8, 2, dropout=0.5, batch_first=True)
    x = torch.randn(6, 5, 8)

    def loss(x):
        noise = torch.randn_like(x) + torch.rand(x.shape) + torch.empty(x.shape).exponential_()
        hidden = lstm(model(x + 0.1 * noise))[0]
        kept = functional.gumbel_softmax(hidden) * torch.bernoulli(torch.full_like(hidden, 0.5))
        step = torch.randint(1, 9, (len(x),))
        return (kept.square().sum((1, 2)) * step).sum()

    with FixedRandomness():
        whole = loss(x)
        parts = loss(x[:2]) + loss(x[2:])
        assert torch.randperm(1).tolist() == [0]
        assert int(torch.randint(3, 5, ())) == 3
    assert whole.item() == pytest.approx(parts.item(), rel=1e-5)


def test_live_losses_of_passes_that_do_not_count_are_forgotten():
    table = bw.LossTable(16)
    live = LiveLosses(table, every=1)
    with kept_back() as records:
        live.record(torch.arange(2), torch.ones(2))
        live.record(torch.arange(2), torch.ones(2))
    assert len(records) == 2
    assert live.pending == 0
    with pytest.raises(bw.errors.LengthsError, match="2 indices for 1 losses"):
        live.record([0, 1], torch.ones(1))


def test_live_losses_are_exchanged_every_so_many_batches():
    live = LiveLosses(bw.LossTable(16), every=3)
    pending = []
    for number in range(7):
        live.record([number], torch.ones(1))
        pending.append(live.pending)
    assert pending == [1, 2, 0, 1, 2, 0, 1]


@pytest.mark.parametrize("mode", ["fp32", "auto"])
def test_losses_count_once_however_often_a_batch_runs(mode):
    """Checked, measured, and again in parts: each sample's loss is recorded once an update."""
    table, model = bw.LossTable(16), net()
    live, precision = LiveLosses(table, every=2), Precision(mode)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    fits = 99

    def loss_sum(model, batch):
        losses = functional.cross_entropy(model(batch["x"]), batch["y"], reduction="none")
        live.record(batch["index"], losses)
        if len(losses) > fits:
            raise torch.OutOfMemoryError
        return losses.sum()

    written = []
    table._write = lambda samples, values: written.append(samples.tolist())
    for fits in (99, 3):  # noqa: B007
        with precision.update(model, optimizer, weight=16) as update:
            for rows in (slice(0, 8), slice(8, 16)):
                batch = {"x": X[rows], "y": Y[rows], "index": torch.arange(16)[rows]}
                update.backward(loss_sum, batch)
    assert update.splits > 1
    assert [sorted(each) for each in written] == [list(range(16))] * 2


def test_padded_means_are_refused():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 50))
    samples = [{"input_ids": torch.randint(0, 50, (n,)).tolist()} for n in (3, 9, 4, 7, 2)]
    batch = PadCollator()([each | {"labels": each["input_ids"]} for each in samples])

    def mean(model, batch):
        return functional.cross_entropy(model(batch["input_ids"]).transpose(1, 2), batch["labels"])

    assert kind_of(mean, model, batch).kind == "mean"


def hardest(model, batch):
    return model(batch[0]).square().sum(1).topk(min(8, len(batch[0]))).values.sum()


def test_rows_that_only_many_of_them_couple_are_not_split():
    model, precision = net(), Precision("fp32")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def overflow(module, args):
        if torch.is_grad_enabled() and len(args[0]) > 8:
            raise MemoryError

    model[2].register_forward_pre_hook(overflow)
    with (
        pytest.raises(UpdateError, match="depends on other rows"),
        precision.update(model, optimizer, weight=16) as update,
    ):
        update.backward(hardest, (X, Y))


def test_a_loss_that_has_become_another_is_not_split():
    model, precision = net(), Precision("fp32")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    later = []

    def loss_sum(model, batch):
        outputs = model(batch[0])
        if later and torch.is_grad_enabled() and len(outputs) > 8:
            raise MemoryError
        pairs = (outputs @ outputs.T).sum() if later else 0.0
        return outputs.square().sum() + pairs

    with precision.update(model, optimizer, weight=16) as update:
        update.backward(loss_sum, (X, Y))
    later.append(1)
    with (
        pytest.raises(UpdateError, match="depends on other rows"),
        precision.update(model, optimizer, weight=16) as update,
    ):
        update.backward(loss_sum, (X, Y))


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_checkpoints_of_the_older_kind_are_compared_by_their_losses(reduction):
    layers = net(dropout=0.1)

    class Checkpointed(nn.Module):
        def forward(self, x):
            inner = checkpoint(layers[:3], x.clone().requires_grad_(), use_reentrant=True)
            return layers[3](inner)

    model = Checkpointed()
    model.layers = layers
    assert kind_of(cross_entropy(reduction), model, (X, Y)).kind == reduction
