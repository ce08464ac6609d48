"""Label noise by a task's own model, on digits whose labels are made wrong."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn.functional import cross_entropy  # noqa: E402
from torch.utils.data import default_collate  # noqa: E402

from batchwright.advise import NoiseSource, profile_duplicates, profile_labels  # noqa: E402
from batchwright.advise.own_model import from_model  # noqa: E402
from batchwright.advise.sample_profiles import is_uncertain, with_source  # noqa: E402
from batchwright.compare import Task  # noqa: E402
from tests.advise.test_label_profile import mislabelled  # noqa: E402


class Seen(nn.Module):
    """A network that keeps what it is trained on."""

    def __init__(self, width=64, flat=True):
        super().__init__()
        self.flat, self.trained_on = flat, set()
        self.layers = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))

    def forward(self, images):
        if self.flat:
            return self.layers(images)
        return self.layers(images[:, None])[:, 0]


def task_of(labels, *, flat=True, made=None):
    images = pytest.importorskip("sklearn.datasets").load_digits().data[: labels.size] / 16
    images = torch.from_numpy(images).float()

    def model():
        network = Seen(flat=flat)
        if made is not None:
            made.append(network)
        return network

    def loss_sum(model, batch):
        index, images, labels = batch
        if model.training:
            model.trained_on.update(index.tolist())
        elif made is not None:  # it is read, not trained
            assert not model.trained_on & set(index.tolist())
        return cross_entropy(model(images), labels, reduction="sum")

    return Task(
        samples=list(zip(range(labels.size), images, labels.tolist(), strict=True)),
        collate=default_collate,
        model=model,
        optimizer=lambda model: torch.optim.Adam(model.parameters(), 5e-3),
        loss_sum=loss_sum,
        evaluate=lambda model: 0.0,
        max_tokens=32,
        step_tokens=32,
        device="cpu",
        labels=labels,
    )


@pytest.mark.slow
def test_a_model_shows_how_many_labels_are_wrong_without_features():
    truth = pytest.importorskip("sklearn.datasets").load_digits().target
    labels, made = mislabelled(truth, 0.3), []
    before = profile_labels(labels)
    assert is_uncertain(before)
    source = from_model(task_of(labels, made=made), labels, 10, seconds=600, epoch_seconds=1)
    assert len(made) == 2
    assert len(made[0].trained_on | made[1].trained_on) == truth.size
    assert not source.doubt
    assert source.low <= 0.3 <= source.high
    after = with_source(before, source, profile_duplicates(list(range(truth.size)), labels=labels))
    assert (after.noise.rate, after.noise_unknown) == (source.rate, "")
    assert "by your model, trained on others for 8 epochs" in after.noise.of
    assert not is_uncertain(after)


@pytest.mark.parametrize(
    ("size", "seconds", "flat"), [(1_000, 1.0, True), (300, 60.0, True), (500, 60.0, False)]
)
def test_a_model_is_not_asked_where_it_cannot_say(size, seconds, flat):
    labels = np.arange(size) % 10
    task = task_of(labels, flat=flat)
    assert from_model(task, labels, 10, seconds=seconds, epoch_seconds=0.5) is None


def test_the_better_of_features_and_model_counts():
    weak = NoiseSource("features", "pixels", 0.3, 0.0, 0.5, 400, 0.4, "too weak")
    good = NoiseSource("model", "your model", 0.2, 0.18, 0.22, 400, 0.7)
    profile = profile_labels(np.arange(400) % 4)
    for first, second in ((weak, good), (good, weak)):
        found = with_source(with_source(profile, first, None), second, None)
        assert found.noise.sources == (good,)
