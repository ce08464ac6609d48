"""Labels are made wrong as said, and the small form of the benchmark runs."""

import numpy as np
import pytest

from benchmarks.label_noise.data_sets import CHECKED, DEVELOPMENT, small_digits
from benchmarks.label_noise.draws import DRAWS, SAMPLES, Draw, drawn, estimated, summed_up, table_of


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("num_classes", [2, 5])
def test_as_many_labels_are_wrong_as_said(draw, num_classes):
    truth = np.arange(9_000) % num_classes
    samples, right, labels = drawn((np.arange(9_000), truth), draw, seed=1)
    assert right.size == SAMPLES
    assert np.array_equal(right, samples % num_classes)
    assert set(labels) <= set(range(num_classes))
    rates = np.array([(labels != right)[right == each].mean() for each in range(num_classes)])
    if draw.kind == "any class":
        assert np.abs(rates - draw.rate).max() < 0.06
    else:
        assert rates.max() < 0.5
        assert np.ptp(rates) > 0.005


def test_no_data_set_is_for_both():
    assert len(CHECKED) == 5
    assert len(DRAWS) * len(CHECKED) == 40
    assert not set(CHECKED.values()) & set(DEVELOPMENT.values())


def test_the_true_share_is_inside():
    images, truth = small_digits()
    small = images[:900], truth[:900]
    draws = [Draw(0.1, "any class"), Draw(0.3, "by class")]
    rows = [estimated("digits", *drawn(small, draw, seed=0), draw) for draw in draws]
    summary = summed_up(rows)
    assert (summary.num_draws, summary.inside, summary.trusted) == (2, 2, 2)
    assert summary.mean_error < 0.05
    assert "inside 2 of 2 intervals" in summary.sentence
    assert table_of(rows).row_count == 2
