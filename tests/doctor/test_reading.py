"""Files of events, read as a run."""

import json

import pytest

from batchwright.doctor.reading import progress, read_run

FACTS = {"num_samples": 4, "dataset": "Texts"}


def written(folder, *batches, facts=FACTS, cut=""):
    """Write what a process writes that makes an update of each batch."""
    events = [["loader", 0, facts], ["pass", 0, 1]]
    for number, (samples, hashes) in enumerate(batches):
        events += [
            ["batch", 0, 1, number, 0.0, samples, hashes, {"rows": 2, "width": 3}],
            ["backward", number + 0.2, 1.0, "mean", 1.0, 2, None, False],
            *([["process", {"rank": 0, "world_size": 1}]] if number == 0 else []),
            ["update", number + 0.5, False, None, 0.1, 0, 0, False],
        ]
    lines = "".join(f"{json.dumps(each)}\n" for each in events)
    (folder / "1.jsonl").write_text(lines + cut)
    return read_run(folder).ranks[0].trained


@pytest.mark.parametrize(
    ("batch", "has_indices"),
    [
        (([0, 3], None), True),
        ((None, [5, 6]), False),  # known by their content
        (([4, 1], None), False),  # no indices of four samples
    ],
)
def test_samples_are_known_by_their_index_or_not(tmp_path, batch, has_indices):
    assert written(tmp_path, batch).has_indices == has_indices


def test_names_of_samples_are_no_indices(tmp_path):
    stream = {"num_samples": None}
    assert not written(tmp_path, ([2**60, 2**59], None), facts=stream).has_indices


def test_the_loss_of_another_optimizer_is_left_out(tmp_path):
    def backward(time, loss):
        return ["backward", time, loss, "mean", 1.0, 2, None, False, None]

    events = [
        ["optimizer", 0, "SGD"],
        ["process", {"rank": 0, "world_size": 1}],
        backward(0.0, "later"),
        ["update", 0.5, False, None, 0.1, 0, 0, False],
        backward(1.0, "later"),
        ["optimizer", 1, "Adam"],
        ["step", 1],
        backward(2.0, "later"),
        ["loss", 0, 4.0, 2],
        ["loss", 1, 5.0, 2],
        ["update", 2.5, False, None, 0.1, 0, 0, False],
        ["loss", 2, 6.0, 2],
    ]
    (tmp_path / "1.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in events))
    (rank,) = read_run(tmp_path).ranks
    assert [[each.loss for each in update.backwards] for update in rank.updates] == [[4.0], [6.0]]
    assert rank.optimizers == (("SGD", 2), ("Adam", 1))


def test_further_columns_are_read(tmp_path):
    contents = {"rows": 2, "width": 3, "lengths": [3, 1], "name": "a", "others": {"b": [5, [4, 5]]}}
    event = ["batch", 0, 1, 0.0, 0.0, [0, 1], None, contents]
    backward = ["backward", 0.2, 1.0, "mean", 1.0, 2, None, False]
    update = ["update", 0.5, False, None, 0.1, 0, 0, False]
    lines = [f"{json.dumps(each)}\n" for each in (event, backward, update)]
    (tmp_path / "1.jsonl").write_text("".join(lines))
    ((batch,),) = (each.batches for each in read_run(tmp_path).ranks[0].updates)
    assert (batch.padded_tokens, batch.tokens) == (6, 4)
    assert (batch.all_padded_tokens, batch.all_tokens) == (16, 13)


@pytest.mark.parametrize(
    ("have_torch", "without"), [([False], ("/p0",)), ([False, True], ()), ([True], ()), ([], ())]
)
def test_interpreters_without_torch_are_named_where_none_has_it(tmp_path, have_torch, without):
    for number, has_torch in enumerate(have_torch):
        event = json.dumps(["python", f"/p{number}", has_torch])
        (tmp_path / f"{number}.jsonl").write_text(f"{event}\n")
    assert read_run(tmp_path).without_torch == without


def test_a_line_that_was_cut_off_is_left_out(tmp_path):
    loader = written(tmp_path, ([0, 1], None), ([2, 3], None), cut='["batch", 0, 1, 9.0, 0')
    assert loader.passes[0].samples.tolist() == [0, 1, 2, 3]
    assert progress(tmp_path).updates == 2
