"""Predictions without a sample are those of a teacher that is trained without it."""

import numpy as np
import pytest

from batchwright.difficulty import kernels
from batchwright.difficulty.kernels import landmarks, leave_one_out


def similarity(rows, chosen):
    return np.exp(-((rows[:, None] - rows[chosen]) ** 2).sum(axis=2))


@pytest.mark.parametrize("num_classes", [2, 3])
def test_a_sample_is_predicted_by_a_teacher_of_the_others(monkeypatch, num_classes):
    monkeypatch.setattr(kernels, "_STRENGTHS", [0.5])
    rng = np.random.default_rng(0)
    codes = rng.permutation(np.arange(60) % num_classes)
    rows = rng.normal(size=(60, 2)) + 2 * codes[:, None]
    chosen = landmarks(60, number=20)
    given = similarity(rows, chosen)
    found = leave_one_out([(given, chosen)], codes, num_classes)
    features = given @ kernels._inverse_root(given[chosen])
    shares = np.bincount(codes) / 60
    targets = np.eye(num_classes)[codes] - shares
    for left_out in range(60):
        others = np.arange(60) != left_out
        x, y = features[others], targets[others]
        weights = np.linalg.solve(x.T @ x + 0.5 * np.eye(x.shape[1]), x.T @ y)
        expected = np.maximum(features[left_out] @ weights + shares, 1e-3)
        assert found[left_out] == pytest.approx(expected / expected.sum(), abs=1e-6)


def test_what_says_nothing_predicts_the_shares():
    codes = np.repeat([0, 0, 1], 20)
    nothing = (np.zeros((60, 5)), np.arange(5))
    assert leave_one_out([nothing], codes, 2) == pytest.approx(np.tile([2 / 3, 1 / 3], (60, 1)))
    assert np.array_equal(landmarks(100, number=7), landmarks(100, number=7))
    assert np.unique(landmarks(10)).size == 10
