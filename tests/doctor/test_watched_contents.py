"""What is read off a batch."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from batchwright.doctor.watch.contents import Contents


def padded(lengths, *, value=0, side="right"):
    width = max(lengths)
    rows = []
    for place, length in enumerate(lengths):
        row = [7 + (place + k) % 5 for k in range(length)]
        pad = [value] * (width - length)
        rows.append(row + pad if side == "right" else pad + row)
    return torch.tensor(rows)


@settings(deadline=None)
@given(
    st.lists(st.integers(3, 60), min_size=2, max_size=9),
    st.sampled_from(["right", "left"]),
    st.booleans(),
)
def test_a_mask_tells_the_lengths(lengths, side, is_tuple):
    tokens = padded(lengths, side=side)
    mask = (tokens != 0).long()
    batch = {
        "input_ids": tokens,
        "attention_mask": mask,
        "labels": torch.zeros(len(lengths), dtype=torch.int64),
    }
    hashes, facts = Contents().look((batch, 1) if is_tuple else batch, "hashes")
    assert facts["lengths"] == lengths
    assert (facts["rows"], facts["width"]) == (len(lengths), max(lengths))
    assert len(hashes) == len(lengths)


@settings(deadline=None)
@given(st.lists(st.integers(3, 60), min_size=2, max_size=9), st.sampled_from(["right", "left"]))
def test_constant_ends_tell_the_lengths_once_batches_differ_in_width(lengths, side):
    contents = Contents()
    contents.look((padded([5, 9, 3], side=side), torch.zeros(3)))
    contents.look((padded([5, 11, 3], side=side), torch.zeros(3)))
    _, facts = contents.look((padded(lengths, side=side), torch.zeros(len(lengths))))
    assert facts["lengths"] == lengths


def test_rows_of_numbers_have_no_padding():
    _, facts = Contents().look((torch.randint(0, 9, (8, 20)), torch.arange(8)))
    assert "lengths" not in facts
    assert facts["labels"] == list(range(8))


def test_a_hash_does_not_depend_on_padding():
    short, long = padded([5, 9]), padded([5, 9, 30])
    left = padded([5, 9], side="left")

    def hashes(tokens):
        return Contents().look(
            {"input_ids": tokens, "attention_mask": (tokens != 0).long()}, "hashes"
        )[0]

    assert hashes(short) == hashes(long)[:2] == hashes(left)
    assert len(set(hashes(long))) == 3


def test_frames_of_zeros_are_padding_where_widths_differ():
    contents = Contents()
    contents.look((torch.randn(2, 7, 4), torch.zeros(2)))
    frames = torch.randn(3, 9, 4)
    frames[0, 4:] = 0
    _, facts = contents.look((frames, torch.zeros(3)))
    assert facts["lengths"] == [4, 9, 9]


def test_images_have_no_length():
    hashes, facts = Contents().look((torch.randn(4, 3, 8, 8), torch.arange(4)), "hashes")
    assert facts == {"rows": 4, "width": 1, "labels": [0, 1, 2, 3]}
    assert len(set(hashes)) == 4


def test_labels_on_padding_are_counted():
    tokens = padded([3, 8])
    mask = (tokens != 0).long()
    batch = {"input_ids": tokens, "attention_mask": mask}
    assert Contents().look({**batch, "labels": tokens})[1]["counted_padding"] == 5
    left_out = tokens.masked_fill(mask == 0, -100)
    assert Contents().look({**batch, "labels": left_out})[1]["counted_padding"] == 0


@pytest.mark.parametrize(("with_mask", "separated"), [(False, True), (True, False)])
def test_documents_of_a_row_are_apart_unless_a_mask_joins_them(with_mask, separated):
    batch = {
        "input_ids": torch.arange(1, 11)[None],
        "position_ids": torch.tensor([[0, 1, 2, 3, 0, 1, 2, 0, 1, 2]]),
    }
    if with_mask:
        batch["attention_mask"] = torch.ones(1, 10, dtype=torch.int64)
    _, facts = Contents().look(batch)
    assert facts["packed"]
    assert facts["separated"] is separated


def translations(sources, targets):
    """A batch of a translation: targets are padded on their own, with -100."""
    labels = padded(targets, value=-100)
    ids = padded(sources)
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels}


def test_targets_of_another_width_are_a_column_of_their_own():
    contents = Contents()
    _, facts = contents.look(translations([5, 9], [3, 9]))  # as wide by chance
    assert "others" not in facts
    _, facts = contents.look(translations([5, 9], [3, 4]))
    assert facts["name"] == "input_ids"
    assert facts["others"] == {"labels": [4, [3, 4]]}
    _, facts = contents.look(translations([5, 9], [9, 9]))
    assert facts["others"] == {"labels": [9, [9, 9]]}
    assert facts["lengths"] == [5, 9]


def test_a_column_that_belongs_to_another_is_not_counted_again():
    batch = translations([5, 9], [3, 4])
    batch |= {"decoder_input_ids": padded([3, 4]), "token_type_ids": padded([5, 9])}
    assert list(Contents().look(batch)[1]["others"]) == ["labels"]
    ids = padded([5, 9])
    alone = {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": ids}
    contents = Contents()
    for _ in range(2):
        assert "others" not in contents.look(alone)[1]


def test_pairs_of_texts_have_masks_by_their_names():
    first, second = padded([5, 9]), padded([4, 2, 2])[:2]
    batch = {
        "anchor_input_ids": first,
        "anchor_attention_mask": (first != 0).long(),
        "positive_input_ids": second,
        "positive_attention_mask": (second != 0).long(),
    }
    facts = Contents().look(batch)[1]
    assert facts["lengths"] == [5, 9]
    assert facts["others"] == {"positive_input_ids": [4, [4, 2]]}


def test_fields_without_names_are_known_by_their_widths():
    contents = Contents()
    contents.look((padded([5, 9, 3]), padded([5, 2, 7])))
    contents.look((padded([5, 8, 3]), padded([5, 2, 6])))
    facts = contents.look((padded([4, 4, 9]), padded([2, 7, 2])))[1]
    assert (facts["name"], facts["others"]) == ("0", {"1": [7, [2, 7, 2]]})


@pytest.mark.parametrize(
    "table",
    [
        torch.eye(3, 20, dtype=torch.int64),  # several labels of a sample
        torch.zeros(2, 20, dtype=torch.int64),  # not of these rows
        torch.zeros(3, 20),
        torch.zeros(3, 20, 4),
    ],
)
def test_tables_of_a_fixed_width_are_no_sequences(table):
    contents = Contents()
    for lengths in ([5, 9, 3], [5, 11, 3], [8, 7, 3]):
        assert "others" not in contents.look({"tokens": padded(lengths), "table": table})[1]


def test_arrays_are_read_as_tensors_are():
    _, facts = Contents().look({"tokens": np.arange(1, 13).reshape(2, 6), "y": np.array([0, 1])})
    assert (facts["rows"], facts["width"], facts["labels"]) == (2, 6, [0, 1])


def test_nothing_is_said_of_what_is_no_tensor():
    assert Contents().look("text") == (None, None)
    assert Contents().look([]) == (None, None)
