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


def test_a_line_that_was_cut_off_is_left_out(tmp_path):
    loader = written(tmp_path, ([0, 1], None), ([2, 3], None), cut='["batch", 0, 1, 9.0, 0')
    assert loader.passes[0].samples.tolist() == [0, 1, 2, 3]
    assert progress(tmp_path).updates == 2
