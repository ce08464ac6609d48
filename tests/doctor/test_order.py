"""Orders that repeat or do not shuffle, and updates of samples that are alike."""

from dataclasses import replace

import numpy as np
import pytest

from batchwright.doctor.checks import order
from batchwright.stats import dispersion
from tests.doctor.runs import blocks, run_of, shared, shuffles, with_ranks
from tests.doctor.test_samples import STREAM, distributed, found, names_of_contents, the_one

LENGTHS = np.random.default_rng(1).lognormal(3, 0.6, 800).astype(int) + 1
CLASSES = np.arange(400) // 40
OF_20 = np.arange(0, 801, 20)
FIXED = np.random.default_rng(3).permutation(400)


@pytest.mark.parametrize("seen", [16, 40, 400])
def test_the_same_order_in_every_epoch(seen):
    run = run_of(FIXED, FIXED, FIXED[:seen], is_complete=seen == 400)
    finding = the_one(run)
    assert (finding.name, finding.level) == ("same order in every epoch", "error")
    assert finding.figure == (
        f"3 epochs used the same shuffled order: the first {seen} samples of each were compared."
    )
    assert finding.share == pytest.approx(2 / 3)  # of the epochs that were seen
    assert "generator.manual_seed(seed + epoch)" in finding.code[0]


def test_a_sampler_that_is_not_told_the_epoch():
    run = run_of(*distributed(400, 2, epochs=3, tells_epoch=False))
    finding = the_one(run)
    assert finding.name == "same order in every epoch"
    assert finding.code == ("sampler.set_epoch(epoch)  # before each epoch",)
    assert found(run_of(*distributed(400, 2, epochs=3))) == []


def test_a_rest_that_is_too_short_to_compare_is_not_counted():
    finding = the_one(run_of(FIXED, FIXED, FIXED[:8], is_complete=False))
    assert finding.figure.startswith("2 epochs used the same shuffled order")
    assert "the first 400 samples of each" in finding.figure


def test_an_order_that_changes_once_is_not_the_same_in_every_epoch():
    assert found(run_of(FIXED, FIXED, FIXED[::-1])) == []


def test_an_order_that_is_the_same_on_one_rank_only_is_not_reported():
    first, last = FIXED[:200], FIXED[200:]
    assert found(run_of((first, last), (first, last[::-1]))) == []


def test_a_beginning_that_is_short_may_be_the_same_by_chance():
    run = run_of(FIXED, FIXED[:8], is_complete=False)
    assert found(run) == []


def test_few_samples_that_repeat_are_no_order():
    drawn = np.zeros(400, int)
    drawn[7] = 1
    assert found(run_of(drawn, drawn, loader={"replaces": True}), order.order_of_epochs) == []


def test_the_same_draws_in_every_epoch_are_found():
    drawn = np.random.default_rng(0).integers(400, size=400)
    run = run_of(drawn, drawn, loader={"replaces": True})
    assert the_one(run, order.order_of_epochs).name == "same order in every epoch"


@pytest.mark.parametrize(
    ("says", "name"), [(None, "no shuffling"), (True, "same order in every epoch")]
)
def test_a_stream_in_the_same_order(says, name):
    contents = names_of_contents(400)
    run = run_of(contents, contents, loader={**STREAM, "is_shuffled": says, "num_workers": 2})
    finding = the_one(run)
    assert finding.name == name
    assert "workers" in finding.cure


@pytest.mark.parametrize(
    "epoch",
    [
        np.arange(400),
        tuple(np.arange(400)[rank::2] for rank in range(2)),
        shared(np.arange(401), 4),
        blocks(np.arange(400), 2),
        np.r_[np.arange(397), np.arange(3)],
    ],
    ids=["one rank", "by stride", "padded", "by block", "filled"],
)
@pytest.mark.parametrize("epochs", [1, 2])
def test_samples_as_they_lie(epoch, epochs):
    run = run_of(*[epoch] * epochs, loader={"sampler": "SequentialSampler"})
    finding = the_one(run, order.order_of_epochs)
    assert (finding.name, finding.level) == ("no shuffling", "warning")
    assert finding.figure.startswith("Samples are in the order of the data set, 0, ")
    assert finding.code == ("DataLoader(dataset, …, shuffle=True)",)


def test_a_first_part_as_it_lies_is_enough():
    run = run_of(np.arange(60), is_complete=False, loader={"num_samples": 400})
    assert the_one(run).name == "no shuffling"


def test_indices_are_known_as_such_where_the_data_has_no_length():
    run = run_of(np.arange(400), loader={"num_samples": None})
    assert the_one(run).figure.startswith("Samples are in the order of the data set, 0, 1, 2")


def test_blocks_in_a_random_sequence_are_shuffled():
    epochs = [np.arange(400).reshape(8, 50)[each].ravel() for each in shuffles(8, 2)]
    assert found(run_of(*epochs, loader={"sampler": "BlockSampler"})) == []


def by_length(lengths, batch_size, seed=0):
    """Sort by length, and shuffle the batches."""
    batches = np.argsort(lengths, kind="stable").reshape(-1, batch_size)
    return list(np.random.default_rng(seed).permutation(batches))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_updates_of_one_length(accumulate):
    epochs = [by_length(LENGTHS, 16 * accumulate, seed) for seed in range(2)]
    cut = [[part for each in epoch for part in np.split(each, accumulate)] for epoch in epochs]
    run = run_of(*cut, batch_size=16, accumulate=accumulate, lengths=LENGTHS)
    finding = the_one(run)
    assert (finding.name, finding.level) == ("length-sorted updates", "warning")
    entries, size = LENGTHS[np.concatenate(epochs[0])], 16 * accumulate
    mix = dispersion(entries, np.arange(0, 801, size))
    assert f"length mix of updates is {mix:.1f}".removesuffix(".0") in finding.figure
    assert f"batch_size={2 * accumulate}, accumulate=8" in finding.code[0]


def test_batches_of_one_length_in_updates_of_all_lengths_are_right():
    eighths = np.argsort(LENGTHS, kind="stable").reshape(8, 10, 10)  # from short to long
    epochs = [
        list(np.stack([rng.permutation(each) for each in eighths], axis=1).reshape(80, 10))
        for rng in map(np.random.default_rng, range(2))
    ]
    run = run_of(*epochs, batch_size=10, accumulate=8, lengths=LENGTHS)
    assert found(run) == []


def test_lengths_of_ranks_count_together():
    short, long = np.argsort(LENGTHS, kind="stable").reshape(2, 40, 10)
    epochs = [
        (list(short[rng.permutation(40)]), list(long[rng.permutation(40)]))
        for rng in map(np.random.default_rng, range(2))
    ]
    finding = the_one(run_of(*epochs, lengths=LENGTHS), order.lengths_of_updates)
    mixes = [
        dispersion(
            LENGTHS[np.concatenate([np.r_[pair] for pair in zip(*each, strict=True)])], OF_20
        )
        for each in epochs
    ]
    assert f"length mix of updates is {np.median(mixes):.1f}".removesuffix(".0") in finding.figure


def test_an_epoch_from_short_to_long_is_a_curriculum_unless_each_is():
    easy = list(np.argsort(LENGTHS, kind="stable").reshape(-1, 16))
    assert found(run_of(easy, lengths=LENGTHS)) == []
    assert found(run_of(easy, *shuffles(800, 1), batch_size=16, lengths=LENGTHS)) == []
    assert the_one(run_of(easy, easy, lengths=LENGTHS)).name == "length-sorted updates"


@pytest.mark.slow
def test_the_grouping_of_transformers_is_found():
    from transformers.trainer_pt_utils import LengthGroupedSampler

    sampler = LengthGroupedSampler(16, lengths=LENGTHS.tolist())
    run = run_of(
        np.array(list(sampler)),
        batch_size=16,
        lengths=LENGTHS,
        loader={"sampler": "LengthGroupedSampler"},
        rank={"framework": "transformers"},
    )
    finding = the_one(run)
    assert finding.name == "length-sorted updates"
    assert "use_plan" in finding.code[0]


def test_lengths_that_are_not_known_or_packed_say_nothing():
    epochs = [by_length(LENGTHS, 16, seed) for seed in range(2)]
    assert found(run_of(*epochs)) == []
    assert found(run_of(*epochs, lengths=LENGTHS, batch={"is_packed": True})) == []


def test_a_few_updates_say_nothing_of_lengths():
    assert found(run_of(by_length(LENGTHS, 16)[:6], lengths=LENGTHS, is_complete=False)) == []


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("batch_size", [2, 16, 64])
def test_shuffles_are_never_called_sorted(seed, batch_size):
    lengths = np.random.default_rng(seed).lognormal(3, 1.2, 800).astype(int) + 1
    labels = np.random.default_rng(seed).zipf(1.8, 800).clip(1, 9)
    run = run_of(*shuffles(800, 2, seed), batch_size=batch_size, lengths=lengths, labels=labels)
    assert found(run, order.lengths_of_updates, order.classes_of_updates) == []


@pytest.mark.parametrize("num_classes", [2, 10, 25])
def test_updates_of_one_class(num_classes):
    labels = np.arange(400) * num_classes // 400
    run = run_of(np.arange(400), batch_size=16, labels=labels)
    finding = the_one(run, order.classes_of_updates)
    assert (finding.name, finding.level) == ("updates of one class", "warning")
    assert f"of {num_classes} classes" in finding.figure
    shuffled = run_of(*shuffles(400), batch_size=16, labels=labels)
    assert found(shuffled, order.classes_of_updates) == []


def test_the_figure_of_updates_of_one_class():
    run = run_of(list(np.arange(400).reshape(-1, 20)), labels=CLASSES)
    finding = the_one(run, order.classes_of_updates)
    assert finding.figure == (
        "An update of 20 samples holds 1 of 10 classes, where a shuffle would have 8.8; "
        "100 % of its samples are of one class."
    )


def test_batches_of_several_classes_on_purpose_are_right():
    rng = np.random.default_rng(0)
    members = np.arange(400).reshape(40, 10)  # 40 classes
    batches = [
        np.concatenate([rng.choice(members[each], 4, replace=False) for each in drawn])
        for drawn in (rng.choice(40, 8, replace=False) for _ in range(60))
    ]
    run = run_of(batches, labels=np.arange(400) // 10, loader={"sampler": "Batches"})
    assert found(run, order.classes_of_updates) == []


def test_classes_of_all_ranks_count_together():
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 2
    parts = tuple(rng.permutation(np.flatnonzero(labels == side)) for side in range(2))
    run = run_of(parts, batch_size=16, labels=labels)
    assert found(run, order.classes_of_updates) == []  # each rank has one class, each update both


def test_the_mix_of_classes():
    labels = np.repeat([3, 5, 8], [300, 80, 20])
    finding = the_one(run_of(*shuffles(400), labels=labels), order.mix_of_classes)
    assert (finding.name, finding.level, finding.cost) == ("class mix", "info", "")
    assert finding.figure == (
        "Of 400 samples of 3 classes, 75.0 % were of class 3, 15 times as many as of class 8 "
        "(5.0 %)."
    )


def test_classes_that_are_even_but_for_chance_are_not_worth_a_word():
    for seed in range(20):
        labels = np.random.default_rng(seed).integers(4, size=200)
        assert found(run_of(*shuffles(200), labels=labels), order.mix_of_classes) == []


def test_other_loaders_do_not_matter():
    run = run_of(*shuffles(400))

    def beside(rank):
        passes = run_of(np.arange(400), np.arange(400)).ranks[0].loaders[0].passes
        return replace(
            rank, loaders=(replace(rank.loaders[0], passes=passes, trains=False), *rank.loaders)
        )

    assert found(with_ranks(run, beside)) == []
