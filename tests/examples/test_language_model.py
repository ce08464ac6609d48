"""The job of the demonstration: an exact token mean, whatever the batches."""

import language_model
import numpy as np
import pytest
import torch
from language_model import END, IGNORED, prepare
from torch.nn.functional import linear_cross_entropy

import batchwright as bw
from benchmarks.mixing.plain_batches import length_grouped, plain

MAX_TOKENS = 400


@pytest.fixture(scope="module")
def job():
    patch = pytest.MonkeyPatch()
    texts = [f"def f{i}(x):\n" + f"    x = x + {i}\n" * (1 + i**2 % 23) for i in range(80)]
    patch.setattr(language_model, "functions", lambda: texts)
    yield prepare(num_samples=60, num_validation=20, vocabulary=300, context=100, seed=3)
    patch.undo()


@pytest.fixture(scope="module")
def model(job):
    """A model whose every weight matters: the first weights make all tokens alike."""
    model = job.model()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn(weight.shape, generator=generator))
    return model


def loss_and_gradient(job, model, batches):
    model.zero_grad()
    loss = 0.0
    for batch in batches:
        loss_sum = job.loss_sum(model, job.collate([job.samples[i] for i in batch]))
        (loss_sum / job.lengths.sum()).backward()
        loss += loss_sum.item()
    return loss, torch.cat([weight.grad.flatten() for weight in model.parameters()])


def test_loss_and_gradient_are_those_of_single_samples_however_they_are_batched(job, model):
    rng = np.random.default_rng(0)
    single = np.arange(job.lengths.size)[:, None]
    expected, gradient = loss_and_gradient(job, model, single)
    batchings = {
        "plain": plain(job.lengths, MAX_TOKENS, rng),
        "length-grouped": length_grouped(job.lengths, MAX_TOKENS, rng, megabatch=5),
        "planned": list(bw.plan(job.lengths, max_tokens=MAX_TOKENS)),
    }
    assert len({len(batches) for batches in batchings.values()}) > 1
    for batches in batchings.values():
        loss, other = loss_and_gradient(job, model, batches)
        assert loss == pytest.approx(expected, rel=1e-5)
        torch.testing.assert_close(other, gradient, rtol=1e-4, atol=1e-6)


def test_loss_sum_is_the_sum_of_the_cross_entropy(job, model):
    inputs, targets = job.collate(job.samples[:7])
    expected = linear_cross_entropy(
        model(inputs).flatten(0, 1),
        model.head.weight,
        targets.flatten(),
        reduction="sum",
        ignore_index=IGNORED,
        options=torch.nn.LinearCrossEntropyOptions(),
    )
    torch.testing.assert_close(job.loss_sum(model, (inputs, targets)), expected)


def test_evaluation_is_the_token_mean_over_the_validation_set(job, model):
    losses = [job.loss_sum(model, job.collate([sample])).item() for sample in job.validation]
    tokens = sum(inputs.numel() for inputs, _ in job.validation)
    assert job.evaluate(model) == pytest.approx(sum(losses) / tokens, rel=1e-5)


def test_samples_are_shifted_bounded_and_end(job):
    assert len(job.samples) == 60
    assert len(job.validation) == 20
    assert job.lengths.max() == job.context == 100
    for inputs, targets in job.samples:
        assert inputs[0] == END
        assert torch.equal(inputs[1:], targets[:-1])
        assert inputs.numel() == 100 or targets[-1] == END


def test_the_same_seed_makes_the_same_job_and_another_seed_another(job):
    same = prepare(num_samples=60, num_validation=20, vocabulary=300, context=100, seed=3)
    other = prepare(num_samples=60, num_validation=20, vocabulary=300, context=100, seed=4)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(job.samples, same.samples, strict=True))
    assert job.lengths.tolist() != other.lengths.tolist()
    for first, second in zip(job.model().parameters(), same.model().parameters(), strict=True):
        assert torch.equal(first, second)


def test_making_a_model_leaves_the_global_generator_alone(job):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    job.model()
    assert torch.equal(torch.rand(3), expected)


def test_a_library_without_source_is_named(job):
    with pytest.raises(ValueError, match=r"found 80 functions .* expected at least 5000"):
        prepare(num_samples=4_900, num_validation=100)


def test_the_dense_limit_has_the_same_shapes_and_no_padding(job):
    batches = list(bw.plan(job.lengths, max_tokens=MAX_TOKENS))
    dense, uniform = job.without_padding(batches)
    assert [batch.size for batch in uniform] == [batch.size for batch in batches]
    for batch, planned in zip(uniform, batches, strict=True):
        assert len(set(dense.lengths[batch].tolist())) == 1
        assert dense.lengths[batch[0]] == round(job.lengths[planned].mean())
    assert np.concatenate(uniform).tolist() == list(range(len(dense.samples)))
