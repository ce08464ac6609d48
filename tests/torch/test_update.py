"""The exact gradient: whatever the batches, what fails on the way, and what is told."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

import batchwright as bw
from batchwright.torch import (
    PieceDataset,
    PlanBatchSampler,
    Precision,
    check_gradient,
    scaled_by_weight,
    windows,
)
from batchwright.torch.update.gradient_check import flat_gradient, relative_error
from batchwright.torch.windows import label_count
from tests.torch.attention_model import Attention, loss_sum, padded, sequences

SAMPLES = sequences(24)


def make(seed=0, **options):
    torch.manual_seed(seed)
    return Attention(**options)


def reference_gradient(model, samples):
    """One batch of everything, in one pass."""
    model = copy.deepcopy(model).eval()
    batch = padded(samples)
    (loss_sum(model, batch) / label_count(batch)).backward()
    return flat_gradient(model)


def cut(samples, sizes):
    """Cut samples into batches of these sizes, the last of what is left."""
    batches, start = [], 0
    for size in sizes:
        if start < len(samples):
            batches.append(padded(samples[start : start + size]))
            start += size
    if start < len(samples):
        batches.append(padded(samples[start:]))
    return batches


def gradient_of(model, batches, precision=None, **options):
    """Make an update that leaves the parameters, and return its gradient and what it told."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    precision = Precision("fp32") if precision is None else precision
    weight = sum(label_count(batch) for batch in batches)
    with precision.update(model, optimizer, weight=weight, **options) as update:
        for batch in batches:
            update.backward(loss_sum, batch)
    return flat_gradient(model), update


@pytest.mark.slow
@settings(max_examples=50)
@given(st.permutations(range(24)), st.lists(st.integers(1, 9), max_size=24))
def test_the_gradient_is_that_of_one_batch_of_everything(order, sizes):
    model = make()
    samples = [SAMPLES[i] for i in order]
    gradient, update = gradient_of(model, cut(samples, sizes))
    reference = reference_gradient(model, SAMPLES)
    assert relative_error(gradient, reference) <= 1e-6
    assert update.applied
    whole = padded(SAMPLES)
    expected = loss_sum(model, whole).item() / label_count(whole)
    assert update.loss == pytest.approx(expected, rel=1e-5)
    assert update.weight == label_count(whole)


def test_the_mean_of_means_is_not():
    by_length = sorted(SAMPLES, key=len)
    errors = check_gradient(make(), cut(by_length, [2, 4, 8]), loss_sum)
    assert errors.exact <= 1e-6
    assert errors.mean_of_means > 0.05
    assert errors.present is None


def test_check_gradient_judges_the_users_own_loop():
    def usual(model, batches):
        for batch in batches:
            (loss_sum(model, batch) / label_count(batch) / len(batches)).backward()

    batches = cut(SAMPLES, [1, 5, 9])
    errors = check_gradient(make(dropout=0.5), batches, loss_sum, present=usual)
    assert errors.present == pytest.approx(errors.mean_of_means, rel=1e-3)


def test_means_by_samples_are_right_where_each_sample_counts_alike():
    model = torch.nn.Linear(2, 1)
    batches = [torch.ones(1, 2), 3 * torch.ones(9, 2)]
    errors = check_gradient(model, batches, lambda m, x: m(x).square().sum())
    assert errors.by_samples < 1e-6 < errors.mean_of_means
    errors = check_gradient(make(), cut(sorted(SAMPLES, key=len), [2, 4, 8]), loss_sum)
    assert errors.exact < 1e-6 < errors.by_samples


def test_check_gradient_takes_a_model_that_is_distributed():
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    try:
        batches = cut(SAMPLES, [3, 9, 2])
        model = torch.nn.parallel.DistributedDataParallel(make())

        def usual(wrapped, batches):
            assert wrapped is model
            for batch in batches:
                (loss_sum(wrapped, batch) / label_count(batch) / len(batches)).backward()

        errors = check_gradient(model, batches, loss_sum, present=usual)
        bare = check_gradient(make(), batches, loss_sum)
        assert errors.mean_of_means == pytest.approx(bare.mean_of_means)
        assert errors.exact < 1e-6
        assert errors.present == pytest.approx(errors.mean_of_means, rel=1e-3)
    finally:
        torch.distributed.destroy_process_group()


class OutOfMemory:
    """Raises as torch does, at the chosen call of forward or backward; then lets all through."""

    def __init__(self, model, *, at, where, error=torch.OutOfMemoryError, times=1):
        self.left, self.at, self.error, self.calls = times, at, error, 0
        layer = model.mix if where.endswith("first layer") else model.head
        if where.startswith("forward"):
            layer.register_forward_hook(self)
        else:
            layer.register_full_backward_hook(self)

    def __call__(self, *_):
        self.calls += 1
        if self.left and self.calls > self.at:
            self.left -= 1
            raise self.error("DefaultCPUAllocator: can't allocate memory: injected")


@pytest.mark.slow
@settings(max_examples=60)
@given(
    st.integers(0, 4),
    st.sampled_from(["forward", "backward"]),
    st.sampled_from(["first layer", "last layer"]),
    st.sampled_from([torch.OutOfMemoryError, MemoryError, RuntimeError]),
    st.integers(1, 2),
    st.sampled_from([0.0, 0.3]),
)
def test_memory_that_runs_out_changes_no_gradient(at, direction, layer, error, times, dropout):
    batches = cut(SAMPLES, [6, 5, 4, 3])
    calm = make(dropout=dropout)
    if dropout:
        calm.eval()  # a split draws other masks: unbiased, but not the same
    rough = copy.deepcopy(calm)
    expected, _ = gradient_of(calm, batches)
    precision = Precision("fp32", check_loss=False)
    OutOfMemory(rough, at=at, where=f"{direction} {layer}", error=error, times=times)
    gradient, update = gradient_of(rough, batches, precision)
    assert relative_error(gradient, expected) <= 1e-6
    assert update.retries == times
    assert update.splits >= times
    assert update.applied


def test_the_replay_draws_the_same_random_numbers():
    """Batches before the one that did not fit see the dropout they saw at first."""
    seen = []

    def watched(model, batch):
        seen.append((len(batch["labels"]), float(torch.rand(()))))
        return loss_sum(model, batch)

    model = make()
    OutOfMemory(model, at=1, where="forward last layer")
    precision = Precision("fp32", check_loss=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    torch.manual_seed(5)
    with precision.update(model, optimizer, weight=1) as update:
        for batch in cut(SAMPLES[:8], [4, 4]):
            update.backward(watched, batch)
    assert [rows for rows, _ in seen] == [4, 4, 4, 2, 2]
    assert seen[0] == seen[2]


def test_losses_before_memory_ran_out_count_once():
    model, batches = make(), cut(SAMPLES[:8], [4, 4])
    _, calm = gradient_of(copy.deepcopy(model), batches)
    OutOfMemory(model, at=1, where="forward last layer")
    _, update = gradient_of(model, batches, Precision("fp32", check_loss=False))
    assert update.retries == 1
    assert update.loss == pytest.approx(calm.loss, rel=1e-5)


def test_a_size_that_did_not_fit_is_split_beforehand_and_grows_back():
    model = make()
    precision = Precision("fp32", check_loss=False)
    OutOfMemory(model, at=0, where="forward last layer")
    large = padded(SAMPLES[:8])
    _, first = gradient_of(model, [large], precision)
    _, second = gradient_of(model, [large], precision)
    assert (first.retries, first.splits) == (1, 1)
    assert (second.retries, second.splits) == (0, 1)
    for _ in range(101):
        _, later = gradient_of(model, [large], precision)
    assert later.splits == 0


def test_a_size_that_did_not_fit_is_one_of_tokens():
    model, precision = torch.nn.Linear(2, 1), Precision("fp32", check_loss=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    fails = iter([True])

    def limited(model, batch):
        if next(fails, False):
            raise torch.OutOfMemoryError("injected")
        return model(batch).square().sum()

    splits = []
    for rows, tokens in ((8, 4), (8, 3), (4, 8)):
        with precision.update(model, optimizer, weight=8) as update:
            update.backward(limited, torch.ones(rows, tokens, 2))
        splits.append(update.splits)
        if update.retries:
            assert precision.limit == pytest.approx(0.9 * 32)
    assert splits == [1, 0, 1]
    assert 0.9 * 32 < precision.limit < 0.9 * 32.1  # by updates without that it grows


def test_batch_normalisation_is_not_split():
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))
    model[0].register_forward_hook(
        lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("injected"))
    )
    precision = Precision("fp32", check_loss=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with (
        pytest.raises(bw.errors.UpdateError, match="1 is a BatchNorm1d in training"),
        precision.update(model, optimizer, weight=4) as update,
    ):
        update.backward(lambda m, x: m(x).square().sum(), torch.randn(4, 4))
    assert all(each.grad is None for each in model.parameters())


def test_a_single_row_that_does_not_fit_says_so():
    model = make()
    OutOfMemory(model, at=0, where="forward last layer", times=99)
    with pytest.raises(bw.errors.UpdateError, match="out of memory, and a batch of a single row"):
        gradient_of(model, [padded(SAMPLES[:2])], Precision("fp32", check_loss=False))


def test_a_weight_below_one_divides_too():
    """Of losses whose rows count by fractions."""
    model = torch.nn.Linear(2, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with Precision("fp32").update(model, optimizer, weight=0.25) as update:
        update.backward(lambda m, x: 0.25 * m(x).sum(), torch.tensor([[1.0, 3.0]]))
    assert torch.equal(model.weight.grad, torch.tensor([[1.0, 3.0]]))
    assert update.loss == pytest.approx(float(model.weight.detach() @ torch.tensor([1.0, 3.0])))


def test_other_errors_are_the_users():
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def broken(model, batch):
        loss_sum(model, batch).backward()
        raise ZeroDivisionError

    with (
        pytest.raises(ZeroDivisionError),
        Precision("fp32", check_loss=False).update(model, optimizer, weight=3) as update,
    ):
        update.backward(broken, padded(SAMPLES[:2]))
    assert not update.applied
    assert all(each.grad is None for each in model.parameters())


def test_batches_of_any_kind_by_a_split_of_the_users():
    model = make()
    expected = reference_gradient(model, SAMPLES[:6])
    precision = Precision("fp32", check_loss=False)
    OutOfMemory(model, at=0, where="backward first layer")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    weight = label_count(padded(SAMPLES[:6]))
    with precision.update(
        model, optimizer, weight=weight, split=lambda each: (each[:2], each[2:])
    ) as update:
        update.backward(lambda m, samples: loss_sum(m, padded(samples)), SAMPLES[:6])
    assert relative_error(flat_gradient(model), expected) <= 1e-6
    assert update.splits == 1


def half_precision():
    """Half floats whose first scale does not overflow on these small sums."""
    return Precision("fp16", scaler=torch.amp.GradScaler("cpu", init_scale=2.0**8))


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "fused adamw": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
}


@pytest.mark.parametrize("mode", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_applied_says_whether_the_parameters_moved(name, mode):
    model = torch.nn.Linear(4, 4)
    optimizer = OPTIMIZERS[name](model.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    precision = half_precision() if mode == "fp16" else Precision(mode)
    told = []
    for factor in (1.0, float("inf"), 1.0, float("nan"), 1.0):
        before = copy.deepcopy(list(model.parameters()))
        with precision.update(model, optimizer, weight=4) as update:
            update.backward(
                lambda m, x, factor=factor: m(x).float().square().sum() * factor, torch.ones(4, 4)
            )
        if update.applied:
            scheduler.step()
        moved = any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
        assert moved == update.applied
        told.append(update.applied)
    assert told == [True, False, True, False, True]
    assert (precision.applied, precision.skipped) == (3, 2)
    assert scheduler.last_epoch == 3


def test_two_optimizers_step_together_or_not_at_all():
    first, second = torch.nn.Linear(4, 4), torch.nn.Linear(4, 1)
    model = torch.nn.Sequential(first, second)
    optimizers = [torch.optim.AdamW(part.parameters(), lr=0.1) for part in (first, second)]
    precision = half_precision()
    for bad in (False, True):
        before = copy.deepcopy(list(model.parameters()))
        second.bias.register_hook(lambda grad, bad=bad: grad * (float("inf") if bad else 1.0))
        with precision.update(model, optimizers, weight=4) as update:
            update.backward(lambda m, x: m(x).float().square().sum(), torch.ones(4, 4))
        moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
        assert moved == [not bad] * 4
        assert update.applied is not bad


def test_clipping_is_of_the_unscaled_gradient():
    model = torch.nn.Linear(4, 1, bias=False)
    torch.nn.init.ones_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    precision = half_precision()
    with precision.update(model, optimizer, weight=1, clip=0.5) as update:
        update.backward(lambda m, x: m(x).float().sum(), torch.ones(1, 4))
    assert update.grad_norm == pytest.approx(2.0)
    assert update.scale == 2.0**8
    assert (1 - model.weight).norm().item() == pytest.approx(0.5, rel=1e-5)


def test_the_scale_cannot_sink_in_silence():
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 1))
    model[0].weight.register_hook(lambda grad: grad * float("nan"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    precision = Precision("fp16")

    def train():
        for _ in range(40):
            with precision.update(model, optimizer, weight=4) as update:
                update.backward(lambda m, x: m(x).float().square().sum(), torch.ones(4, 4))

    with pytest.raises(bw.errors.UpdateError, match=r"below its floor of 1: .*in: 0\.weight"):
        train()
    assert precision.skipped < 30


def test_an_exact_resume():
    def steps(model, optimizer, precision, batches):
        for batch in batches:
            with precision.update(model, optimizer, weight=label_count(batch), clip=1.0) as update:
                update.backward(loss_sum, batch)
        return update.loss, flat_gradient(model)

    batches = cut(SAMPLES, [4] * 6)
    model = make()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    precision = Precision("fp16")
    steps(model, optimizer, precision, batches[:3])
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), precision.state_dict()))
    expected = steps(model, optimizer, precision, batches[3:])

    for mode in ("fp16", "auto"):
        model = make(seed=9)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        precision = Precision(mode)
        model.load_state_dict(saved[0])
        optimizer.load_state_dict(copy.deepcopy(saved[1]))
        precision.load_state_dict(copy.deepcopy(saved[2]))
        loss, gradient = steps(model, optimizer, precision, batches[3:])
        assert loss == expected[0]
        assert torch.equal(gradient, expected[1])
        assert precision.mode == "fp16"
    with pytest.raises(bw.errors.PrecisionError, match='saved in "fp16"'):
        Precision("bf16").load_state_dict(saved[2])


def test_auto_says_what_it_measured_and_chose(caplog):
    model = make()
    precision = Precision("auto")
    for _ in range(2):
        gradient_of(model, cut(SAMPLES, [8, 8]), precision)
    (said,) = caplog.messages
    assert said.startswith(f'Precision("auto") chose {precision.mode}: a step took fp32 ')
    assert "not tried: tf32, fp16" in said


def test_autocast_of_the_users_own():
    model = make()
    precision = Precision(lambda: torch.autocast("cpu", dtype=torch.bfloat16))
    gradient, update = gradient_of(model, cut(SAMPLES, [8, 8]), precision)
    expected = reference_gradient(model, SAMPLES)
    assert 1e-6 < relative_error(gradient, expected) < 0.05
    assert precision.mode == "custom"
    assert update.applied


def test_parameters_in_brain_floats():
    model = make()
    precision = Precision("bf16-true")
    with pytest.raises(bw.errors.PrecisionError, match=r"Call precision\.prepare"):
        gradient_of(model, cut(SAMPLES, [8]), precision)
    precision = Precision("bf16-true")
    model = precision.prepare(model)
    _, update = gradient_of(model, cut(SAMPLES, [8]), precision)
    assert update.applied
    assert next(model.parameters()).dtype == torch.bfloat16


@pytest.mark.parametrize(("rule", "moved"), [("linear", 0.5), ("sqrt", 0.5**0.5)])
def test_learning_rates_scale_with_the_weight_of_the_update(rule, moved):
    model = torch.nn.Linear(4, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.25)
    with Precision("fp32").update(
        model, optimizer, weight=8, learning_rate=scaled_by_weight(16, rule)
    ) as update:
        update.backward(lambda m, x: m(x).sum(), torch.ones(8, 4))
    assert model.weight.tolist() == [pytest.approx([-0.25 * moved] * 4)]
    assert optimizer.param_groups[0]["lr"] == 0.25


def test_a_learning_rate_that_the_optimizer_changes_is_changed_for_good():
    class Halving(torch.optim.SGD):
        def step(self, closure=None):
            super().step(closure)
            self.param_groups[0]["lr"] *= 0.5

    model = torch.nn.Linear(4, 1)
    optimizer = Halving(model.parameters(), lr=0.25)
    with Precision("fp32").update(
        model, optimizer, weight=8, learning_rate=scaled_by_weight(32, "linear")
    ) as update:
        update.backward(lambda m, x: m(x).sum(), torch.ones(8, 4))
    assert optimizer.param_groups[0]["lr"] == 0.125


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (torch.tensor(1.0), "got a loss, expected a function and a batch"),
        ("loss", "got 'loss', expected a function"),
        (lambda: torch.tensor(1.0), "cannot be called as loss_sum"),
        (lambda m, x: m(x).square().mean(), "looks like a mean"),
        (lambda m, x: m(x).square(), r"returned \[4, 1\], expected a tensor of one number"),
        (lambda *_: 3.0, "returned float"),
        (lambda _, x: x.sum(), "without a gradient"),
    ],
    ids=["loss", "text", "closure", "mean", "rows", "float", "constant"],
)
def test_bad_losses(loss, said):
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    precision = Precision("fp32", check_loss="mean" in said)
    with (
        pytest.raises(bw.errors.LossError, match=said),
        precision.update(model, optimizer, weight=4) as update,
    ):
        update.backward(loss, torch.randn(4, 4))


@pytest.mark.parametrize("weight", [-1, float("nan"), float("inf")])
def test_bad_weights(weight):
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(bw.errors.LossError, match="0 or more"):
        Precision("fp32").update(model, optimizer, weight=weight)
    with pytest.raises(bw.errors.LossError, match="give either weight"):
        Precision("fp32").update(model, optimizer)
    with (
        pytest.raises(bw.errors.LossError, match="an update without a batch"),
        Precision("fp32").update(model, optimizer, weight=1),
    ):
        pass


def test_batches_outside_of_an_update_are_refused():
    def squares(model, batch):
        return model(batch).square().sum()

    model = torch.nn.Linear(4, 1)
    update = Precision("fp32").update(model, torch.optim.SGD(model.parameters()), weight=2)
    with pytest.raises(bw.errors.UpdateError, match="outside of its update: call it inside `with"):
        update.backward(squares, torch.ones(2, 4))
    with update:
        update.backward(squares, torch.ones(2, 4))
    with pytest.raises(bw.errors.UpdateError, match="outside of its update"):
        update.backward(squares, torch.ones(2, 4))
    assert update.applied


def test_bad_precisions():
    with pytest.raises(bw.errors.PrecisionError, match="fp8"):
        Precision("fp8")
    with pytest.raises(TypeError, match="precision"):
        Precision()
    with pytest.raises(bw.errors.PrecisionError, match="None.*expected one of 'auto', 'fp32'"):
        Precision(None)
    with pytest.raises(bw.errors.PrecisionError, match="TensorFloat-32 is a format of CUDA GPUs"):
        gradient_of(make(), cut(SAMPLES, [8]), Precision("tf32"))


def test_windows_go_by_the_plan():
    lengths = [len(each) for each in SAMPLES]
    planner = bw.Planner(lengths, batching=bw.TokenBudget(64), accumulate=3)
    loader = DataLoader(SAMPLES, batch_sampler=PlanBatchSampler(planner), collate_fn=padded)
    seen = list(windows(loader))
    assert [len(window) for window in seen] == [3] * (len(planner) // 3)
    assert sum(window.tokens for window in seen) == sum(lengths) - len(lengths)
    with pytest.raises(bw.errors.LossError, match="pass accumulate="):
        next(windows([1, 2]))
    with pytest.raises(bw.errors.LossError, match="pass weigh="):
        next(windows(["text"], accumulate=1))


@pytest.mark.parametrize("workers", [0, 2])
def test_windows_know_from_the_plan_what_all_ranks_weigh(workers):
    weights = [len(each) - 1 for each in SAMPLES]
    lengths = [len(each) for each in SAMPLES]
    planner = bw.Planner(lengths, batching=bw.TokenBudget(64), accumulate=2, world_size=2)
    ranks = []
    for rank in range(2):
        sampler = PlanBatchSampler(planner, rank=rank, world_size=2)
        loader = DataLoader(SAMPLES, batch_sampler=sampler, collate_fn=padded, num_workers=workers)
        ranks.append([*windows(loader, sample_weights=weights)])
        sampler.load_state_dict(sampler.state_after(2))
        rest = list(windows(loader, sample_weights=weights))
        assert [each.global_tokens for each in rest] == [
            each.global_tokens for each in ranks[-1][1:]
        ]
    for first, second in zip(*ranks, strict=True):
        assert first.tokens != first.global_tokens == second.global_tokens
        assert first.global_tokens == first.tokens + second.tokens
        model = make()
        with Precision("fp32").update(
            model, torch.optim.SGD(model.parameters()), global_weight=first.global_tokens
        ) as update:
            for batch in first:
                update.backward(loss_sum, batch)
        assert update.weight == first.global_tokens


def test_sample_weights_that_cannot_be_right_are_refused():
    lengths = [len(each) for each in SAMPLES]
    planner = bw.Planner(lengths, batching=bw.TokenBudget(64))
    loader = DataLoader(SAMPLES, batch_sampler=PlanBatchSampler(planner), collate_fn=padded)
    with pytest.raises(bw.errors.LossError, match="one less than the length"):
        next(windows(loader, sample_weights=lengths))
    nearly = [(length - 1) * 1.001 for length in lengths]
    with pytest.raises(bw.errors.LossError, match="by sample_weights the window weighs"):
        next(windows(loader, sample_weights=nearly))
    for wrong in (lengths[:3], [*lengths, 1]):
        loader.batch_sampler.set_epoch(0)
        with pytest.raises(
            bw.errors.LossError, match=rf"{len(wrong)} sample_weights for a plan of"
        ):
            next(windows(loader, sample_weights=wrong))
    batches = [padded(SAMPLES)]
    with pytest.raises(bw.errors.LossError, match="need a PlanLoader"):
        next(windows(batches, accumulate=1, sample_weights=lengths))
    planner = bw.Planner(lengths, batching=bw.Packing(8, oversize="split"))
    loader = DataLoader(
        PieceDataset(SAMPLES), batch_sampler=PlanBatchSampler(planner), collate_fn=padded
    )
    with pytest.raises(bw.errors.LossError, match="this plan splits long ones"):
        next(windows(loader, sample_weights=lengths))


def test_what_does_not_fit_is_measured_and_checked_on_a_half():
    seen = []

    def short_of_memory(model, batch):
        seen.append(batch.shape[0])
        if batch.shape[0] > 4:
            raise torch.OutOfMemoryError("injected")
        return model(batch).square().sum()

    model = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 1)).eval()
    precision = Precision("auto")
    with precision.update(model, torch.optim.SGD(model.parameters()), weight=16) as update:
        update.backward(short_of_memory, torch.randn(16, 3))
    assert update.applied
    assert seen[:3] == [16, 8, 4]
    assert update.splits == 3
    assert Precision.measure(model, short_of_memory, torch.randn(16, 3)).mode == precision.mode
    with pytest.raises(bw.errors.UpdateError, match="out of memory, and a batch of a single row"):
        Precision.measure(
            model, lambda *_: short_of_memory(model, torch.randn(5, 3)), torch.ones(2)
        )


def test_measuring_that_fails_leaves_the_model_as_it_was():
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 1))
    before = copy.deepcopy(model.state_dict())
    batch = torch.randn(8, 3)
    random = torch.get_rng_state()
    passes = iter([None, None, KeyError("the user's")])

    def fails_late(model, batch):
        loss = model(batch + torch.rand(())).square().sum()
        error = next(passes)
        if error is not None:
            raise error
        return loss

    with pytest.raises(KeyError, match="the user's"):
        Precision.measure(model, fails_late, batch)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(each.grad is None for each in model.parameters())


@pytest.mark.parametrize("batch_norm", [False, True])
def test_measuring_leaves_the_model_as_it_was(batch_norm):
    torch.manual_seed(0)
    layers = [torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8)] if batch_norm else []
    model = torch.nn.Sequential(
        *layers, torch.nn.Dropout(0.5), torch.nn.Linear(8 if layers else 4, 1)
    )
    before = copy.deepcopy(model.state_dict())
    batch = torch.randn(8, 4)
    state = torch.get_rng_state()
    chosen = Precision.measure(model, lambda m, x: m(x).square().sum(), batch)
    assert torch.equal(state, torch.get_rng_state())
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [trial.mode for trial in chosen.evidence.trials] == ["fp32", "bf16"]
    assert set(chosen.evidence.ruled_out) == {"tf32", "fp16"}
    assert chosen.evidence.trials[0].gradient_error == 0
    assert 0 < chosen.evidence.trials[1].gradient_error < 0.1
