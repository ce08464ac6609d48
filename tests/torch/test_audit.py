"""The audit: what it counts, held against real casts; what it advises, against real training."""

import copy
import dataclasses
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

import batchwright as bw
from batchwright.torch import Precision
from batchwright.torch.audit import Audit
from batchwright.torch.audit.report import FORMATS, Exponents
from batchwright.torch.update.gradient_check import flat_gradient, relative_error

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def tanh_net(layers, gain, width=48, seed=0):
    """Signals and gradients shrink by about the gain from layer to layer."""
    torch.manual_seed(seed)
    parts = []
    for _ in range(layers):
        linear = torch.nn.Linear(width, width)
        torch.nn.init.normal_(linear.weight, std=gain / width**0.5)
        torch.nn.init.zeros_(linear.bias)
        parts += [linear, torch.nn.Tanh()]
    return torch.nn.Sequential(*parts)


def square_loss(model, batch):
    inputs, targets = batch
    return (model(inputs).float() - targets).square().mean(-1).sum()


def batch_for(width=48, rows=64, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(rows, width, generator=generator) for _ in range(2))


def audited(model, batch, *, mode="fp32", rate=1e-3, updates=1, loss=square_loss, scaler=None):
    """Train for some updates with an eye on each."""
    precision = Precision(mode, scaler=scaler)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    with Audit(model, optimizer, every=1, precision=precision) as audit:
        for _ in range(updates):
            with precision.update(model, optimizer, weight=len(batch[0])) as update:
                update.backward(loss, batch)
    return audit.report()


# -- counting ---------------------------------------------------------------------------------


def slow_shares(values, dtype, scale):
    """Cast, and look value by value."""
    counts = dict.fromkeys(("zero", "flushed", "subnormal", "overflowed"), 0)
    for value in values.double().tolist():
        kept = float(torch.tensor(value * scale, dtype=torch.float64).to(dtype))
        if value == 0:
            counts["zero"] += 1
        elif not math.isfinite(kept):
            counts["overflowed"] += 1
        elif kept == 0:
            counts["flushed"] += 1
        elif abs(kept) < torch.finfo(dtype).smallest_normal:
            counts["subnormal"] += 1
    others = max(len(values) - counts["zero"], 1)
    return {
        name: count / (len(values) if name == "zero" else others) for name, count in counts.items()
    }


# Away from where rounding carries a value into the next power of two.
mantissas = st.floats(1.01, 1.9)
values = st.one_of(
    st.just(0.0),
    st.sampled_from([math.inf, -math.inf, math.nan]),
    st.builds(
        lambda sign, mantissa, power: sign * mantissa * 2.0**power,
        st.sampled_from([-1, 1]),
        mantissas,
        st.integers(-120, 60),
    ),
)


@settings(max_examples=200)
@given(
    st.lists(values, min_size=1, max_size=40), st.sampled_from(list(DTYPES)), st.integers(-9, 30)
)
def test_shares_are_those_of_a_real_cast(numbers, name, power):
    tensor = torch.tensor(numbers, dtype=torch.float32)
    seen = Exponents.of(tensor)
    assert seen.total == len(numbers)
    shares = dataclasses.asdict(seen.shares(FORMATS[name], 2.0**power))
    assert shares == pytest.approx(slow_shares(tensor, DTYPES[name], 2.0**power))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_type_is_counted_alike(dtype):
    tensor = torch.tensor([[0.0, 1.5, -2.0], [2.0**-14, math.nan, -math.inf]], dtype=dtype)
    seen = Exponents.of(tensor)
    assert (seen.zeros, seen.not_finite, seen.powers) == (1, 2, {-14: 1, 0: 1, 1: 1})


def test_formats_are_torchs():
    for name, dtype in DTYPES.items():
        limits = FORMATS[name]
        assert 2.0**limits.normal == torch.finfo(dtype).smallest_normal
        assert 2.0**-limits.digits == torch.finfo(dtype).eps
        assert torch.tensor(1.01 * 2.0**limits.least, dtype=torch.float64).to(dtype) != 0
        assert torch.tensor(0.99 * 2.0**limits.least, dtype=torch.float64).to(dtype) == 0
        assert torch.tensor(2.0**limits.most, dtype=torch.float64).to(dtype).isinf()


@pytest.mark.parametrize("name", list(DTYPES))
@pytest.mark.parametrize("deviation", [1e3, 1.0, 1e-3, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9])
def test_the_error_is_about_that_of_a_real_cast(name, deviation):
    torch.manual_seed(0)
    tensor = torch.randn(20_000, dtype=torch.float64) * deviation
    kept = tensor.to(DTYPES[name]).double()
    real = float((kept - tensor).norm() / tensor.norm())
    assert Exponents.of(tensor).error(FORMATS[name]) == pytest.approx(real, rel=0.15)


def test_errors_at_the_ends():
    assert Exponents().error(FORMATS["fp16"]) == 0
    assert Exponents.of(torch.zeros(4)).error(FORMATS["fp16"]) == 0
    assert Exponents.of(torch.full((4,), 1e5)).error(FORMATS["fp16"]) == math.inf
    assert Exponents.of(torch.tensor([math.nan])).error(FORMATS["bf16"]) == math.inf
    assert len(Exponents.of(2.0 ** torch.arange(-60.0, 10.0, 5)).suiting_scales()) > 0


# -- advice -----------------------------------------------------------------------------------


def fp16_gradient_error(model, batch, scale):
    """How far the gradients of fp16 really are off: those of the worst parameter."""
    exact = copy.deepcopy(model)
    (square_loss(exact, batch) / len(batch[0])).backward()
    half = copy.deepcopy(model)
    with torch.autocast("cpu", dtype=torch.float16):
        loss = square_loss(half, batch) / len(batch[0])
    (loss * scale).backward()
    return max(
        relative_error(a.grad / scale, b.grad)
        for a, b in zip(half.parameters(), exact.parameters(), strict=True)
    )


def test_shrinking_signals_need_bf16():
    model, batch = tanh_net(16, gain=0.25), batch_for()
    report = audited(copy.deepcopy(model), batch)
    lost_forward, apart = report.advice()
    assert "as this is lost forward (" in lost_forward
    assert lost_forward.endswith("): use bf16.")
    assert "No single loss scale suits the gradients of all layers in fp16" in apart
    assert all(math.isnan(scale) for scale in report.suiting_scales)
    last = report.layers[-1].activations
    assert last.shares(FORMATS["fp16"]).flushed > 0.9
    assert last.shares(FORMATS["bf16"]).flushed == 0
    assert report.advice("bf16") == []
    # True: no scale gives fp16 a gradient.
    assert min(fp16_gradient_error(model, batch, 2.0**power) for power in range(8, 33, 8)) > 0.5


def test_calm_signals_need_no_advice():
    model, batch = tanh_net(8, gain=1.0), batch_for()
    report = audited(copy.deepcopy(model), batch)
    assert report.advice() == report.advice("bf16") == report.advice("tf32") == []
    low, high = report.suiting_scales
    assert low <= 2.0**16 <= high
    # True: fp16 is as good as bf16 at the ends of the range that is reported ...
    for scale in (low, 2.0**16, high):
        assert fp16_gradient_error(model, batch, scale) < 0.01
    # ... and not far outside of it.
    assert fp16_gradient_error(model, batch, low / 2**10) > 0.02
    assert not fp16_gradient_error(model, batch, high * 2**6) < 0.01


def test_small_gradients_need_the_scale_that_is_advised():
    def tiny(model, batch):
        return square_loss(model, batch) * 2.0**-36

    batch = batch_for()
    (before,) = audited(tanh_net(4, gain=1.0), batch, loss=tiny).advice()
    assert "A loss scale of 2^16 leaves gradients too small for fp16; one between" in before
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**6)
    report = audited(tanh_net(4, gain=1.0), batch, loss=tiny, mode="fp16", scaler=scaler)
    assert report.mode == "fp16"
    dead = report.advice()
    assert any("are zero in fp16 at a loss scale of 64" in sentence for sentence in dead)
    advised = eval(before.partition("init_scale=")[2].partition(")")[0])  # noqa: S307
    scaler = torch.amp.GradScaler("cpu", init_scale=advised)
    report = audited(tanh_net(4, gain=1.0), batch, loss=tiny, mode="fp16", scaler=scaler)
    assert report.loss_scale == advised
    assert report.advice() == []


def test_a_scale_in_use_that_is_too_small():
    def small(model, batch):
        return square_loss(model, batch) * 2.0**-16

    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    report = audited(tanh_net(4, gain=1.0), batch_for(), loss=small, mode="fp16", scaler=scaler)
    assert any("A loss scale of 2^1 leaves gradients too small" in each for each in report.advice())


class Loud(torch.nn.Module):
    """The output of the second layer overflows in fp16; the last layer normalizes it."""

    def __init__(self, layers=6):
        super().__init__()
        torch.manual_seed(0)
        self.first = tanh_net(layers // 2, gain=1.0)
        self.loud = torch.nn.Linear(48, 48)
        torch.nn.init.normal_(self.loud.weight, std=1e6)
        self.quiet = torch.nn.LayerNorm(48)

    def forward(self, inputs):
        return self.quiet(self.loud(self.first(inputs)))


def test_a_layer_that_overflows_is_named():
    report = audited(Loud(), batch_for())
    (said,) = report.advice()
    assert "fp16 ends at 65,504, and the output of layer loud is larger (1 of 8 layers)" in said
    assert "keep loud in fp32, or use bf16" in said
    assert report.advice("bf16") == []
    report = audited(Loud(), batch_for(), mode="bf16")
    assert (report.mode, report.advice()) == ("bf16", [])


def test_infinities_are_found_where_they_begin():
    model, batch = Loud(), batch_for()
    with Audit(model) as audit, torch.autocast("cpu", dtype=torch.float16):
        square_loss(model, batch).backward()
    said = audit.report().advice()[0]
    assert "outputs of layer loud are infinite or NaN, the first of 2 layers" in said
    assert "fp16 ends at 65,504" in said

    model = tanh_net(2, gain=1.0)
    model[2].register_full_backward_hook(lambda *_: (torch.full((64, 48), math.nan),))
    with Audit(model) as audit:
        square_loss(model, batch).backward()
    report = audit.report()
    assert "3,072 gradients are infinite or NaN where they enter layer 1" in report.advice()[0]
    model[0].weight.data[0, 0] = math.nan
    with Audit(model) as audit:
        square_loss(model, batch)
    assert "division by zero" in audit.report().advice()[0]


# -- updates ----------------------------------------------------------------------------------


def test_updates_are_lost_in_bf16_and_not_in_fp32():
    batch, rate = batch_for(), 1e-3
    plain = tanh_net(3, gain=1.0)
    report = audited(copy.deepcopy(plain), batch, rate=rate)
    assert report.mode == "fp32"
    assert all(layer.lost.share() < 0.05 for layer in report.layers)
    assert report.advice() == []
    (predicted,) = report.advice("bf16-true")
    assert "of the updates are lost with parameters in bf16" in predicted
    assert 'Precision("bf16")' in predicted

    brain = Precision("bf16-true").prepare(copy.deepcopy(plain))
    before = copy.deepcopy(brain)
    seen = audited(
        brain, batch, mode="bf16-true", rate=rate,
        loss=lambda model, each: square_loss(model, (each[0].bfloat16(), each[1])),
    )  # fmt: skip
    assert seen.mode == "bf16-true"
    (said,) = seen.advice()
    assert "of the updates are lost with parameters in bf16" in said
    for layer, module in zip(seen.layers, brain, strict=True):
        old = dict(before.named_modules())[layer.name]
        own = [
            (a == b).sum().item()
            for a, b in zip(module.parameters(), old.parameters(), strict=True)
        ]
        assert layer.lost.lost == pytest.approx(sum(own), abs=2)  # all of them had a gradient
        if own:
            layer_before = next(each for each in report.layers if each.name == layer.name)
            assert layer.lost.share() > 0.5
            assert layer_before.lost.share("bf16") == pytest.approx(layer.lost.share(), abs=0.05)


def test_large_updates_are_not_lost():
    report = audited(tanh_net(3, gain=1.0), batch_for(), rate=100.0)
    assert report.advice("bf16-true") == []


def test_steps_that_were_skipped_count_as_none():
    model = torch.nn.Linear(4, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    scaler = torch.amp.GradScaler("cpu")
    with Audit(model, optimizer, every=1, precision=scaler) as audit:
        scaler.scale(model(torch.full((2, 4), math.inf)).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    (layer,) = audit.report().layers
    assert layer.lost.due == 0

    precision = Precision("fp32", check_loss=False)
    with Audit(model, optimizer, every=1, precision=precision) as audit:
        for factor in (math.inf, 1.0):
            with precision.update(model, optimizer, weight=2) as update:
                update.backward(lambda m, x, f=factor: m(x).sum() * f, torch.ones(2, 4))
    report = audit.report()
    assert (report.passed, report.updates) == (1, 1)
    assert report.layers[0].lost.due == 20


def test_a_rate_of_zero_loses_nothing():
    assert audited(tanh_net(2, gain=1.0), batch_for(), rate=0.0).layers[0].lost.due == 0


def test_tied_parameters_and_those_of_containers_count_once():
    torch.manual_seed(0)
    attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    head = torch.nn.Linear(8, 8, bias=False)
    head.weight = torch.nn.Parameter(head.weight)
    twin = torch.nn.Linear(8, 8, bias=False)
    twin.weight = head.weight
    model = torch.nn.ModuleList([attention, head, twin])
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with Audit(model, optimizer, every=1) as audit:
        x = torch.randn(2, 5, 8)
        twin(head(attention(x, x, x)[0])).square().sum().backward()
        optimizer.step()
    report = audit.report()
    assert [layer.name for layer in report.layers] == ["0", "1", "2", "0.out_proj"]
    assert sum(layer.updates.total for layer in report.layers) == sum(
        each.numel() for each in model.parameters()
    )
    assert report.layers[2].updates.total == 0
    assert report.layers[-1].activations_in is None


# -- what is looked at, and what is left alone ------------------------------------------------


def hook_count(model, optimizer):
    modules = sum(
        len(each._forward_hooks) + len(each._forward_pre_hooks) + len(each._backward_hooks)
        for each in model.modules()
    )
    return modules, len(optimizer._optimizer_step_pre_hooks) + len(
        optimizer._optimizer_step_post_hooks
    )


def test_only_every_nth_update_is_looked_at():
    model, batch = tanh_net(2, gain=1.0), batch_for()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Audit(model, optimizer, every=3) as audit:
        for number in range(1, 8):
            assert hook_count(model, optimizer) == (4 if number % 3 == 0 else 0, 2)
            square_loss(model, batch).backward()
            optimizer.step()
    assert hook_count(model, optimizer) == (0, 0)
    report = audit.report()
    assert (report.passed, report.updates) == (7, 2)
    assert {layer.activations.total for layer in report.layers} == {2 * 64 * 48}
    assert {layer.gradients.total for layer in report.layers} == {2 * 64 * 48}
    assert report.layers[0].updates.total == 2 * (48 * 48 + 48)


def test_nothing_seen_is_not_nothing_found():
    model = tanh_net(1, gain=1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Audit(model, optimizer) as audit:
        square_loss(model, batch_for()).backward()
        optimizer.step()
    assert audit.report().advice() == [
        "Nothing was audited in 1 update. Choose a smaller `every`, or train for longer."
    ]


class Awkward(torch.nn.Module):
    """What hooks break easily: writing in place, random numbers, passes done again, tuples."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.enter = torch.nn.Linear(8, 16)
        self.gate = torch.nn.ReLU(inplace=True)
        self.drop = torch.nn.Dropout(0.3)
        self.norm = torch.nn.BatchNorm1d(16)
        self.again = torch.nn.Linear(16, 16)
        self.cell = torch.nn.GRU(16, 16, batch_first=True)

    def forward(self, inputs):
        x = self.norm(self.drop(self.gate(self.enter(inputs))))
        x = checkpoint(self.again, x, use_reentrant=False)
        return self.cell(x[:, None])[0]


@pytest.mark.parametrize("mode", ["fp32", "bf16", "fp16"])
def test_nothing_that_is_computed_changes(mode):
    torch.manual_seed(3)
    batch = torch.randn(12, 8)
    results = []
    for every in (None, 1, 2):
        model = Awkward()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        precision = Precision(mode, check_loss=False)
        audit = None if every is None else Audit(model, optimizer, every=every, precision=precision)
        torch.manual_seed(4)
        for _ in range(4):
            with precision.update(model, optimizer, weight=12, clip=1.0) as update:
                update.backward(lambda m, x: m(x).float().square().sum(), batch)
        state = torch.cat([each.flatten().float() for each in model.state_dict().values()])
        results.append((flat_gradient(model), state, update.loss, torch.get_rng_state()))
        if audit is not None:
            audit.close()
            assert audit.report().updates == audit.report().passed // every > 0
    for gradient, state, loss, random in results[1:]:
        assert torch.equal(gradient, results[0][0])
        assert torch.equal(state, results[0][1])
        assert loss == results[0][2]
        assert torch.equal(random, results[0][3])


def test_zeros_are_not_losses():
    model = torch.nn.Sequential(torch.nn.Embedding(5, 8, padding_idx=0), torch.nn.ReLU())
    with Audit(model) as audit:
        model(torch.tensor([[0, 0, 0, 2]])).sum().backward()
    padding, relu = (
        layer.activations.shares(FORMATS["fp16"]) for layer in audit.report().layers
    )  # fmt: skip
    assert (padding.zero, padding.flushed) == (0.75, 0)
    assert relu.zero >= padding.zero
    assert relu.flushed == 0
    assert audit.report().advice() == []


def test_passes_that_choose_check_or_evaluate_are_not_counted():
    model, batch = tanh_net(2, gain=1.0), batch_for()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    precision = Precision("auto")
    with Audit(model, optimizer, every=1, precision=precision) as audit:
        with precision.update(model, optimizer, weight=64) as update:
            update.backward(square_loss, batch)
        with torch.no_grad():
            model(batch[0])
    assert precision.evidence is not None
    assert {layer.activations.total for layer in audit.report().layers} == {64 * 48}


def test_the_loss_scale_is_taken_out():
    def powers(report):
        return [layer.gradients for layer in report.layers]

    model, batch = tanh_net(2, gain=1.0), batch_for()
    plain = audited(copy.deepcopy(model), batch)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    scaled = audited(copy.deepcopy(model), batch, scaler=scaler)
    assert scaled.loss_scale == 2.0**12
    assert powers(plain) == powers(scaled)


def test_an_audit_in_fp32_predicts_what_fp16_flushes():
    model, batch = tanh_net(8, gain=0.25), batch_for()
    predicted = audited(copy.deepcopy(model), batch)
    scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    seen = audited(copy.deepcopy(model), batch, mode="fp16", scaler=scaler)
    for before, after in zip(predicted.layers, seen.layers, strict=True):
        assert after.activations_in == "fp16"
        shares = before.gradients.shares(FORMATS["fp16"])
        zero = after.gradients.zeros / after.gradients.total
        assert zero == pytest.approx(shares.flushed, abs=0.1)
    assert any("leaves gradients too small" in each for each in seen.advice()) or any(
        "No single loss scale" in each for each in seen.advice()
    )


def test_the_report_is_text_and_json():
    report = audited(tanh_net(16, gain=0.25), batch_for())
    text = str(report)
    assert "Audit of 1 update in fp32: values as fp16 would keep them" in text
    assert all(f" {layer.name} " in text for layer in report.layers)
    assert "- In fp16, 100 % of the output of layer" in text
    assert max(len(line) for line in text.splitlines() if not line.startswith("-")) <= 120
    facts = json.loads(json.dumps(dataclasses.asdict(report)))
    assert len(facts["layers"]) == 32
    assert sum(facts["layers"][0]["activations"]["powers"].values()) == 64 * 48
    many = dataclasses.replace(report, layers=report.layers * 3)
    assert "and 36 layers with smaller errors" in str(many)


def test_bad_arguments():
    model = tanh_net(1, gain=1.0)
    with pytest.raises(bw.errors.PrecisionError, match="expected an integer of at least 1"):
        Audit(model, every=0)
    with (
        Audit(model) as audit,
        pytest.raises(bw.errors.PrecisionError, match="expected one of 'fp32'"),
    ):
        audit.report().advice("fp8")
