"""Findings in the sequence in which they are to be read."""

import numpy as np

from batchwright.doctor.diagnosis import diagnose
from tests.doctor.runs import run_of, shuffles
from tests.doctor.test_order import LENGTHS, by_length


def names(run):
    return [each.name for each in diagnose(run).findings]


def test_an_order_that_stays_comes_before_small_losses():
    order = np.random.default_rng(0).permutation(400)
    lost = order[:380]
    run = run_of(lost, lost, lengths=np.full(400, 9), loader={"num_samples": 400, **PLAIN})
    assert names(run) == ["same order in every epoch", "samples lost"]
    half = order[:150]
    run = run_of(half, half, lengths=np.full(400, 9), loader={"num_samples": 400, **PLAIN})
    assert names(run) == ["samples lost", "same order in every epoch"]


PLAIN = {"sampler": "DistributedSampler"}


def test_updates_of_one_length_come_before_padding_that_is_left():
    epochs = [by_length(LENGTHS, 16, seed) for seed in range(2)]
    found = names(run_of(*epochs, batch_size=16, lengths=LENGTHS))
    assert found[0] == "length-sorted updates"


def test_data_that_is_not_shuffled_comes_before_less_padding_than_half():
    lengths = np.tile([20, 30], 200)
    found = diagnose(run_of(np.arange(400), np.arange(400), lengths=lengths)).findings
    assert [each.name for each in found][:2] == ["no shuffling", "padding"]
    assert [each.share for each in found] == sorted((each.share for each in found), reverse=True)


def test_a_verdict_begins_with_the_failure_of_the_command():
    run = run_of(*shuffles(400), exit_code=3)
    assert diagnose(run).verdict == (
        "The command failed with exit code 3, after 200 updates. Nothing found that is wrong or "
        "wasteful."
    )
