"""Every figure of training dynamics against one that keeps the whole history."""

import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright.difficulty import Dynamics
from batchwright.errors import LengthsError, SourceNotFoundError

CLASSES = 3
FIGURES = (
    *("count", "confidence", "variability", "correctness", "forgetting"),
    *("el2n", "aum", "ema_loss"),
)


@st.composite
def batches(draw, num_samples, max_batches=6):
    """Batches of (indices, logits, labels), with samples that come twice in one batch."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    found = []
    for _ in range(draw(st.integers(0, max_batches))):
        size = draw(st.integers(0, 2 * num_samples))
        scale = draw(st.sampled_from([0.1, 2.0, 8.0]))
        # Within ±12, where no probability is below 1e-12.
        logits = np.clip(rng.normal(scale=scale, size=(size, CLASSES)), -12, 12)
        found.append((rng.integers(0, num_samples, size), logits, rng.integers(0, CLASSES, size)))
    return found


def softmax(logits):
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def from_history(num_samples, history, decay):
    figures = {name: np.full(num_samples, np.nan) for name in FIGURES}
    figures["count"][:] = 0
    for i in range(num_samples):
        seen = [
            (z, y)
            for indices, logits, labels in history
            for index, z, y in zip(indices, logits, labels, strict=True)
            if index == i
        ]
        if not seen:
            continue
        p = [softmax(z)[y] for z, y in seen]
        right = [int(np.argmax(z)) == y for z, y in seen]
        forgotten = sum(a and not b for a, b in pairwise(right))
        weights = [decay ** (len(p) - 1 - k) for k in range(len(p))]
        figures["count"][i] = len(seen)
        figures["confidence"][i] = np.mean(p)
        figures["variability"][i] = np.std(p)
        figures["correctness"][i] = np.mean(right)
        figures["forgetting"][i] = forgotten if any(right) else np.inf
        figures["el2n"][i] = np.mean(
            [np.linalg.norm(softmax(z) - np.eye(CLASSES)[y]) for z, y in seen]
        )
        figures["aum"][i] = np.mean([z[y] - max(np.delete(z, y)) for z, y in seen])
        figures["ema_loss"][i] = np.average(-np.log(p), weights=weights)
    return figures


def check(dynamics, history):
    expected = from_history(dynamics.num_samples, history, dynamics.decay)
    for name in FIGURES:
        found = getattr(dynamics, name)
        assert np.allclose(found, expected[name], rtol=1e-4, atol=1e-5, equal_nan=True), name


@given(st.data(), st.integers(1, 8), st.sampled_from([0.0, 0.5, 0.9]), st.booleans())
def test_every_figure_is_the_one_of_the_whole_history(data, num_samples, decay, as_logits):
    dynamics = Dynamics(num_samples, decay=decay)
    history = data.draw(batches(num_samples))
    for indices, logits, labels in history:
        outputs = logits if as_logits else softmax(logits)
        dynamics.record(indices, outputs, labels, logits=as_logits) if indices.size else None
    check(dynamics, history)


@given(st.data(), st.integers(1, 8), st.integers(2, 4))
def test_merged_shards_are_as_if_recorded_one_after_another(data, num_samples, shards):
    parts, history = [], []
    for _ in range(shards):
        part = Dynamics(num_samples)
        for batch in data.draw(batches(num_samples, max_batches=3)):
            part.record(*batch, logits=True)
            history.append(batch)
        parts.append(part)
    merged = Dynamics(num_samples)
    for part in parts:
        merged.merge(part)
    check(merged, history)
    # Whichever are merged first.
    for part in reversed(parts[1:-1]):
        part.merge(parts[-1])
        parts[-1] = part
    if shards > 2:
        parts[0].merge(parts[1])
        check(parts[0], history)


@given(st.data(), st.integers(1, 8))
def test_saved_and_loaded_it_goes_on_as_before(data, num_samples):
    history = data.draw(batches(num_samples, max_batches=4))
    dynamics = Dynamics(num_samples, decay=0.7)
    for k, batch in enumerate(history):
        if k == 2:
            with tempfile.TemporaryDirectory() as folder:
                dynamics.save(Path(folder, "run.safetensors"))
                dynamics = Dynamics.load(Path(folder, "run.safetensors"))
        if k == 3:
            state = dynamics.state_dict()
            dynamics = Dynamics(num_samples, decay=0.7)
            dynamics.load_state_dict(state)
        dynamics.record(*batch, logits=True)
    check(dynamics, history)


def test_deviations_do_not_drown_in_rounding():
    # In sums of p and p² of float32 a deviation of 1e-5 about 0.9 would be lost.
    rng = np.random.default_rng(0)
    p = 0.9 + 1e-5 * rng.standard_normal(2_000)
    dynamics = Dynamics(1)
    for part in np.split(p, 40):
        dynamics.record(np.zeros(50, int), np.stack([part, 1 - part], 1), np.zeros(50, int))
    assert dynamics.variability[0] == pytest.approx(p.std(), rel=0.02)


def test_a_sample_never_seen_has_no_figures():
    dynamics = Dynamics(2)
    dynamics.record([0], [[0.3, 0.7]], [0])
    for name in FIGURES[1:]:
        assert np.isnan(getattr(dynamics, name)).tolist() == [False, True], name
    assert dynamics.forgetting[0] == np.inf


def test_tensors_on_the_cpu_are_taken():
    torch = pytest.importorskip("torch")
    logits, labels = torch.randn(5, CLASSES), torch.tensor([0, 1, 2, 0, 1])
    indices = torch.tensor([0, 2, 1, 2, 0])
    dynamics = Dynamics(3)
    dynamics.record(indices, logits, labels, logits=True)
    check(dynamics, [(indices.numpy(), logits.double().numpy(), labels.numpy())])
    half = Dynamics(3)
    half.record(indices, logits.softmax(1).half(), labels)
    assert np.allclose(half.confidence, dynamics.confidence, atol=1e-2)
    with pytest.raises(LengthsError, match="float"):
        dynamics.record(indices, logits.bfloat16(), labels, logits=True)
    with pytest.raises(LengthsError, match="detach"):
        dynamics.record(indices, logits.requires_grad_(), labels, logits=True)


@pytest.mark.parametrize(
    ("indices", "outputs", "labels", "logits"),
    [
        ([2], [[0.5, 0.5]], [0], False),
        ([-1], [[0.5, 0.5]], [0], False),
        ([0.0], [[0.5, 0.5]], [0], False),
        ([[0]], [[0.5, 0.5]], [0], False),
        ([0], [[0.5, 0.5]], [2], False),
        ([0], [[0.5, 0.5]], [0, 1], False),
        ([0], [[0.5, 0.5], [0.5, 0.5]], [0], False),
        ([0], [[1.0]], [0], False),
        ([0], [[3.0, -1.0]], [0], False),
        ([0], [[0.5, np.nan]], [0], False),
        ([0], [[0.5, np.inf]], [0], True),
        ([0], [0.5, 0.5], [0], True),
    ],
)
def test_a_batch_that_does_not_fit_is_refused_and_changes_nothing(indices, outputs, labels, logits):
    dynamics = Dynamics(2)
    with pytest.raises(LengthsError):
        dynamics.record(indices, outputs, labels, logits=logits)
    assert dynamics.count.tolist() == [0, 0]


def test_states_and_files_of_something_else_are_refused(tmp_path):
    dynamics = Dynamics(3)
    for other in (Dynamics(4), Dynamics(3, decay=0.5)):
        with pytest.raises(LengthsError):
            dynamics.merge(other)
        with pytest.raises(LengthsError):
            dynamics.load_state_dict(other.state_dict())
    with pytest.raises(LengthsError):
        dynamics.load_state_dict({})
    for arguments in ({"num_samples": 0}, {"num_samples": 3, "decay": 1.0}):
        with pytest.raises(LengthsError):
            Dynamics(**arguments)
    path = tmp_path / "run.safetensors"
    with pytest.raises(SourceNotFoundError, match="no such file"):
        Dynamics.load(path)
    dynamics.save(path)
    whole = path.read_bytes()
    for size in (0, 7, 100, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(LengthsError):
            Dynamics.load(path)
    with pytest.raises(LengthsError):
        dynamics.save(tmp_path / "missing" / "run.safetensors")
