"""What goes wrong in the middle of an update leaves nothing behind: the next one is right."""

import copy
import json
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import batchwright as bw
from batchwright.torch import LiveLosses, Precision
from batchwright.torch.selection import sample_losses
from batchwright.torch.update.out_of_memory import is_out_of_memory
from batchwright.torch.update.passes import PassTrace
from batchwright.torch.update.step import stepping

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


def squares(model, batch):
    return model(batch).float().square().sum()


def linear():
    torch.manual_seed(0)
    return nn.Linear(3, 2)


class Failing(torch.optim.Adam):
    """Fails in `step`, before it or after it, when it is asked to."""

    fails = None

    def step(self, *args, **kwargs):
        fails, self.fails = self.fails, None
        if fails == "before":
            raise torch.OutOfMemoryError("CUDA out of memory")
        if fails == "midway":  # as a first step does that runs out of memory: half of a state
            parameter = self.param_groups[0]["params"][0]
            if not self.state[parameter]:
                self.state[parameter] = {"step": torch.tensor(1.0)}
            raise torch.OutOfMemoryError("CUDA out of memory")
        result = super().step(*args, **kwargs)
        if fails == "after":
            raise KeyboardInterrupt
        return result


def scaler():
    return torch.amp.GradScaler("cpu", init_scale=2.0**8)


@pytest.mark.parametrize("mode", ["fp32", "fp16"])
@pytest.mark.parametrize("fails", ["before", "midway", "after"])
@pytest.mark.parametrize("first", [True, False])
def test_an_error_in_the_optimizer_changes_no_setting(mode, fails, first):
    model = linear()
    optimizer = Failing(model.parameters(), lr=0.1)
    precision = Precision(mode, scaler=scaler() if mode == "fp16" else None)

    def update():
        with precision.update(
            model, optimizer, weight=4, clip=0.1, learning_rate=lambda _: 0.5
        ) as made:
            made.backward(squares, X)
        return made

    if not first:
        update()
    optimizer.fails = fails
    with pytest.raises((torch.OutOfMemoryError, KeyboardInterrupt)):
        update()
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert precision.loss_scale == (2.0**8 if mode == "fp16" else 1.0)
    assert all(each.grad is None for each in model.parameters())
    twin = copy.deepcopy(model)
    (squares(twin, X) / 4).backward()
    made = update()
    assert made.applied
    reference = torch.cat([each.grad.flatten() for each in twin.parameters()])
    tolerance = 1e-6 if mode == "fp32" else 1e-2
    assert made.grad_norm == pytest.approx(float(reference.norm()), rel=tolerance)


def test_an_error_in_clipping_changes_no_setting(monkeypatch):
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    precision = Precision("fp16", scaler=scaler())
    with monkeypatch.context() as patched:
        patched.setattr("batchwright.torch.update.step.get_total_norm", lambda _: 1 / 0)
        with (
            pytest.raises(ZeroDivisionError),
            precision.update(model, optimizer, weight=4) as update,
        ):
            update.backward(squares, X)
    assert precision.loss_scale == 2.0**8
    for _ in range(2):
        with precision.update(model, optimizer, weight=4, clip=1.0) as update:
            update.backward(squares, X)
        assert update.applied


@pytest.mark.parametrize("mode", ["fp32", "bf16", "auto"])
def test_sparse_gradients(mode):
    """The same step as plain torch's, clipped by the norm of what rows add up to."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(10, 4, sparse=True), nn.Linear(4, 1))
    dense = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 1))
    dense.load_state_dict(model.state_dict())
    tokens = torch.tensor([1, 2, 2, 7])
    norms = []
    precision = Precision(mode)
    for each in (model, dense):
        optimizers = [torch.optim.SGD(part.parameters(), lr=0.1) for part in each]
        with precision.update(each, optimizers, weight=4, clip=0.01) as update:
            update.backward(squares, tokens)
        assert update.applied
        norms.append(update.grad_norm)
    assert norms[0] == pytest.approx(norms[1], rel=1e-6)
    for one, other in zip(model.parameters(), dense.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=1e-5)


def test_gradients_of_all_optimizers_are_unscaled():
    moved = []
    for precision in (Precision("fp32"), Precision("fp16", scaler=scaler())):
        model = nn.Sequential(linear(), nn.Linear(2, 1))
        with torch.no_grad():
            model[1].weight.fill_(0.5)
        before = [each.clone() for each in model.parameters()]
        optimizers = [torch.optim.SGD(part.parameters(), lr=0.1) for part in model]
        with precision.update(model, optimizers, weight=4) as update:
            update.backward(lambda m, x: m(x).float().sum(), X)
        assert update.applied
        moved.append([a - b for a, b in zip(before, model.parameters(), strict=True)])
    for full, half in zip(*moved, strict=True):
        assert torch.allclose(full, half, rtol=1e-2, atol=1e-4)


class SharpnessAware(torch.optim.SGD):
    """The usual form: its `step` takes a closure and has two halves."""

    def first_step(self):
        pass

    def second_step(self):
        pass


class WantsClosure(torch.optim.SGD):
    def step(self, closure=None):
        assert closure is not None, "this optimizer requires closure"
        return super().step(closure)


@pytest.mark.parametrize("kind", [torch.optim.LBFGS, SharpnessAware])
def test_optimizers_that_run_the_model_are_refused_at_once(kind):
    model = linear()
    with pytest.raises(bw.errors.UpdateError, match="runs the model by itself, from a closure"):
        Precision("fp32").update(model, kind(model.parameters(), lr=0.1), weight=1)


def test_an_optimizer_that_asks_for_a_closure_in_its_step_ends_the_update():
    model = linear()
    with (
        pytest.raises(AssertionError, match="requires closure"),
        Precision("fp32").update(model, WantsClosure(model.parameters()), weight=1) as update,
    ):
        update.backward(squares, X)
    with pytest.raises(bw.errors.UpdateError, match="expected an optimizer"):
        stepping([model])


@pytest.mark.slow
def test_what_accelerate_prepared_is_seen_through_or_refused():
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState

    def prepared(**options):
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        accelerator = Accelerator(cpu=True, **options)
        model = linear()
        return accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))

    model, optimizer = prepared()
    with Precision("fp32").update(model, optimizer, weight=4) as update:
        update.backward(squares, X)
    assert update.applied
    assert not torch.equal(model.weight, linear().weight)
    model, optimizer = prepared(gradient_accumulation_steps=4)
    with pytest.raises(bw.errors.UpdateError, match="gradient_accumulation_steps=4"):
        Precision("fp32").update(model, optimizer, weight=4)


@pytest.mark.parametrize("mode", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("part", ["loss", "gradient"])
def test_what_is_never_finite_ends_the_run_and_names_layers(mode, part):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    if part == "gradient":
        model[0].weight.register_hook(lambda grad: grad * float("nan"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    precision = Precision(mode)

    def train():
        for _ in range(40):
            with precision.update(model, optimizer, weight=4) as update:
                update.backward(
                    lambda m, x: squares(m, x) * (float("nan") if part == "loss" else 1), X
                )

    with pytest.raises(bw.errors.UpdateError, match=r"in: 0\.weight"):
        train()
    assert precision.applied == 0
    if mode != "fp16":
        assert precision.skipped == 10


def test_a_loss_that_is_not_finite_with_finite_gradients_is_not_applied():
    model = linear()
    before = model.weight.clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Precision("fp32", check_loss=False).update(model, optimizer, weight=4) as update:
        update.backward(lambda m, x: squares(m, x) + torch.tensor(float("inf")), X)
    assert not update.applied
    assert torch.equal(model.weight, before)


def test_only_skips_in_a_row_count():
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    precision = Precision("fp32")
    for step in range(40):
        with precision.update(model, optimizer, weight=4) as update:
            bad = float("nan") if step % 10 else 1.0
            update.backward(lambda m, x, bad=bad: squares(m, x) * bad, X)
    assert (precision.applied, precision.skipped) == (4, 36)


def test_only_skips_in_a_row_count_below_the_floor():
    precision, model = Precision("fp16", scaler=scaler(), loss_scale_floor=2.0**9), linear()
    trained(precision, model, [float("inf"), float("inf"), 1e-6] * 2)
    assert (precision.applied, precision.skipped) == (2, 4)
    with pytest.raises(bw.errors.UpdateError, match="below its floor"):
        trained(precision, model, [float("inf")] * 3)


@pytest.mark.parametrize("how", ["weight", "global_weight"])
def test_an_update_that_weighs_nothing_is_not_applied(how):
    model = linear()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    precision = Precision("auto")
    before = model.weight.clone()
    scaled = lambda weight: 1 / weight  # noqa: E731
    with precision.update(model, optimizer, **{how: 0.0}, learning_rate=scaled) as update:
        update.backward(squares, X)
    assert (update.applied, update.weight) == (False, 0.0)
    assert (precision.applied, precision.skipped) == (0, 0)
    assert torch.equal(model.weight, before)
    with precision.update(model, optimizer, weight=0):
        pass
    with precision.update(model, optimizer, weight=4) as update:
        update.backward(squares, X)
    assert update.applied


WORDINGS = [
    "cuFFT error: CUFFT_ALLOC_FAILED",
    "HIPSPARSE_STATUS_ALLOC_FAILED when calling hipsparseCreate(handle)",
    "MIOpen Error: miopenStatusAllocFailed",
    "CUDA out of memory. Tried to allocate 2.00 GiB",
    "HIP out of memory. Tried to allocate 20.00 MiB",
    "XPU out of memory. Tried to allocate 2.00 GiB",
    "MPS backend out of memory (MPS allocated: 8.00 GB, other allocations: 1 GB)",
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
    "CUDA driver error: out of memory",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "CUDA error: HIPBLAS_STATUS_ALLOC_FAILED when calling `hipblasCreate`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "Triton Error [CUDA]: out of memory",
    "UR error: UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY",
    "[enforce fail at alloc_cpu.cpp:119] . DefaultCPUAllocator: can't allocate memory: you tried",
    "[enforce fail at alloc_cpu.cpp:81] data. DefaultCPUAllocator: not enough memory: you tried",
]

OTHER_ERRORS = [
    "the memory bank is empty",
    "It is possible that dataloader's workers are out of shared memory.",
    "mat1 and mat2 shapes cannot be multiplied",
    "expected contiguous memory format",
    "CUDA error: device-side assert triggered",
    "the cache ran out of memory slots",
]


def raised_from(error, outer, *, cause):
    try:
        try:
            raise error
        except RuntimeError as inner:
            raise outer from (inner if cause else None)
    except Exception as nested:  # noqa: BLE001
        return nested


@pytest.mark.parametrize("wording", WORDINGS)
def test_memory_that_ran_out_is_known_by_every_wording(wording):
    error = RuntimeError(wording)
    assert is_out_of_memory(error)
    assert is_out_of_memory(raised_from(error, ValueError("in layer 3"), cause=True))
    assert not is_out_of_memory(raised_from(error, RuntimeError("stopped"), cause=False))
    try:
        try:
            raise error
        except RuntimeError:
            raise RuntimeError("layer 3 failed")  # noqa: B904
    except RuntimeError as nested:
        assert is_out_of_memory(nested)
    assert not is_out_of_memory(ValueError(wording))


@pytest.mark.parametrize("wording", OTHER_ERRORS)
def test_errors_that_mention_memory_are_others(wording):
    assert not is_out_of_memory(RuntimeError(wording))


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("wording", WORDINGS[::4])
def test_memory_that_ran_out_in_any_wording_splits_the_batch(wording, nested):
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)

    def limited(model, batch):
        if len(batch) > 2:
            if nested:
                raise KeyError("layer") from RuntimeError(wording)
            raise RuntimeError(wording)
        return squares(model, batch)

    with Precision("fp32").update(model, optimizer, weight=4) as update:
        update.backward(limited, X)
    assert (update.applied, update.splits) == (True, 1)


def state():
    return Precision("fp16", scaler=scaler()).state_dict() | {"mode": "fp16", "scaler": None}


SCALER = {
    "scale": 256.0,
    "growth_factor": 2.0,
    "backoff_factor": 0.5,
    "growth_interval": 2000,
    "_growth_tracker": 3,
}


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        [],
        {},
        {"mode": "fp32"},
        state() | {"more": 1},
        state() | {"mode": ["fp16"]},
        state() | {"mode": "fp8"},
        state() | {"applied": -1},
        state() | {"applied": 1.5},
        state() | {"applied": True},
        state() | {"applied": 10**30},
        state() | {"skipped": "3"},
        state() | {"below": None},
        state() | {"limit": [1]},
        state() | {"limit": float("nan")},
        state() | {"limit": -1},
        state() | {"scaler": {"scale": 1.0}},
        state() | {"scaler": SCALER | {"scale": float("inf")}},
        state() | {"scaler": SCALER | {"scale": "256"}},
        state() | {"scaler": SCALER | {"backoff_factor": 2.0}},
        state() | {"scaler": SCALER | {"_growth_tracker": -1}},
    ],
    ids=str,
)
def test_states_that_are_wrong_change_nothing(wrong):
    precision = Precision("fp16")
    before = precision.state_dict()
    said = r"no state of a Precision.*(state_dict\(\) returned|expected one of|an integer of)"
    with pytest.raises(bw.errors.PrecisionError, match=said):
        precision.load_state_dict(wrong)
    assert precision.state_dict() == before


def test_states_of_numpy_numbers_and_json_are_taken():
    numbers = {
        "applied": np.int64(5),
        "skipped": np.int32(1),
        "below": np.uint8(0),
        "limit": np.float32(64),
        "scaler": SCALER | {"scale": np.float32(512), "_growth_tracker": np.int64(7)},
    }
    precision = Precision("auto")
    precision.load_state_dict(state() | numbers)
    saved = json.loads(json.dumps(precision.state_dict()))
    assert saved["applied"] == 5
    assert saved["scaler"]["scale"] == 512.0
    assert precision.mode == "fp16"


def trained(precision, model, steps):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scales = []
    for bad in steps:
        with precision.update(model, optimizer, weight=4) as update:
            update.backward(lambda m, x, bad=bad: squares(m, x) * bad, X)
        scales.append(precision.loss_scale)
    return scales


@pytest.mark.parametrize("way", ["state", "pickle"])
def test_a_loss_scale_that_has_moved_goes_on_where_it_was(way):
    precision, model = Precision("fp16"), linear()
    trained(precision, model, [float("inf")] * 3 + [1e-6])
    assert precision.loss_scale == 2.0**13
    other = Precision("fp16")
    if way == "state":
        other.load_state_dict(precision.state_dict())
    else:
        other = pickle.loads(pickle.dumps(precision))  # noqa: S301
    assert trained(other, copy.deepcopy(model), [float("inf"), 1e-6]) == [2.0**12] * 2
    assert (other.applied, other.skipped) == (2, 4)


@pytest.mark.parametrize("mode", ["fp32", "bf16", "auto"])
def test_a_precision_is_pickled_before_and_after_use(mode):
    precision, model = pickle.loads(pickle.dumps(Precision(mode))), linear()  # noqa: S301
    live = LiveLosses(bw.LossTable(4), every=1)

    def recorded(model, batch):
        losses = model(batch).square().sum(1)
        live.record(range(4)[: len(losses)], losses)
        return losses.sum()

    for _ in range(2):
        with precision.update(model, torch.optim.SGD(model.parameters()), weight=4) as update:
            update.backward(recorded, X)
        precision = pickle.loads(pickle.dumps(precision))  # noqa: S301
    assert update.applied
    assert precision.applied == 2


class Counting(nn.Module):
    """A module that makes its buffer in its first pass."""

    def forward(self, x):
        if not hasattr(self, "seen"):
            self.register_buffer("seen", torch.zeros(()))
        self.seen += len(x)
        return x


def test_a_buffer_that_a_pass_has_made_counts_once():
    model = nn.Sequential(Counting(), linear())
    precision, optimizer = Precision("fp32"), torch.optim.SGD(model.parameters(), lr=0.1)
    scarce = []

    def loss_sum(model, batch):
        loss = squares(model, batch)
        if scarce and len(batch) > 2:
            raise MemoryError
        return loss

    with precision.update(model, optimizer, weight=4) as update:
        update.backward(loss_sum, X)
    before = float(model[0].seen)
    scarce.append(1)
    with precision.update(model, optimizer, weight=4) as update:
        update.backward(loss_sum, X)
    assert update.splits == 1
    assert float(model[0].seen) == before + 4


class RegisteringLate(nn.Module):
    """Makes a table in its first pass, as rotary positions do."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x):
        if not hasattr(self, "table"):
            self.register_buffer("table", torch.ones(3))
        return self.linear(x * self.table)


@pytest.mark.parametrize("mode", ["fp32", "auto"])
def test_buffers_that_the_first_pass_registers_do_not_matter(mode):
    model, precision = RegisteringLate(), Precision(mode)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        with precision.update(model, optimizer, weight=4) as update:
            update.backward(squares, X)
        assert update.applied
    losses = sample_losses(RegisteringLate(), lambda m, x: m(x).square().sum(1), X)
    assert losses.shape == (4,)


class Masked(nn.Module):
    """Holds a table that no pass changes, and a counter and statistics that passes do."""

    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(3, 2), nn.InstanceNorm1d(2, track_running_stats=True)
        self.register_buffer("mask", torch.ones(3))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen += len(x)
        return self.norm(self.linear(x * self.mask)[:, :, None].expand(-1, -1, 2))


def test_only_buffers_that_passes_change_are_copied_again():
    model = Masked()
    trace = PassTrace(model)
    state = trace.capture()
    assert all(saved.copy is not None for saved in state.buffers)
    model.eval()(X)  # statistics do not change now, but may later
    state.learn()
    copied = {saved.slot.path for saved in trace.capture().buffers if saved.copy is not None}
    assert copied == {
        *("norm.running_mean", "norm.running_var", "norm.num_batches_tracked"),
        "seen",
    }


def test_memory_that_runs_out_twice_leaves_tables_alone():
    model = Masked().eval()
    precision, optimizer = Precision("fp32"), torch.optim.SGD(model.parameters(), lr=0.1)
    scarce = []

    def loss_sum(model, batch):
        if scarce and torch.is_grad_enabled() and len(batch) > 1:
            raise MemoryError
        return squares(model, batch)

    with precision.update(model, optimizer, weight=4) as update:
        update.backward(loss_sum, X)
    scarce.append(1)
    with precision.update(model, optimizer, weight=4) as update:
        update.backward(loss_sum, X)
    assert (update.applied, update.retries) == (True, 3)
    assert float(model.seen) == 8
