"""Images of varying size, padded: every pixel in its place, nothing else but padding around it."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

import batchwright as bw
from batchwright.torch import ImageCollator, PlanBatchSampler
from tests.torch.photographs import Crops

sizes = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=5)
KINDS = {
    "tensor": torch.from_numpy,
    "array": np.asarray,
    "view": lambda image: image[:, ::-1][:, ::-1],
}


def numbered(shapes, channels, dtype):
    rng = np.random.default_rng(0)
    return [rng.integers(1, 99, (channels, *shape)).astype(dtype) for shape in shapes]


def padded_by_hand(image, height, width, pad):
    return [
        [
            [
                channel[y][x] if y < len(channel) and x < len(channel[0]) else pad
                for x in range(width)
            ]
            for y in range(height)
        ]
        for channel in image.tolist()
    ]


@settings(max_examples=50)
@given(
    shapes=sizes,
    channels=st.sampled_from((1, 3)),
    dtype=st.sampled_from([np.uint8, np.float32, np.int64]),
    kind=st.sampled_from(sorted(KINDS)),
    multiple=st.sampled_from((1, 4)),
    pad=st.integers(0, 9),
)
def test_every_pixel_is_in_its_place(shapes, channels, dtype, kind, multiple, pad):
    images = numbered(shapes, channels, dtype)
    collate = ImageCollator(pad, pad_to_multiple_of=multiple, mask=True)
    batch, mask = collate([KINDS[kind](image) for image in images])
    height, width = (max(side) + -max(side) % multiple for side in zip(*shapes, strict=True))
    assert batch.dtype == torch.from_numpy(images[0]).dtype
    assert batch.tolist() == [padded_by_hand(image, height, width, pad) for image in images]
    assert mask.dtype == torch.int64
    assert mask.tolist() == [
        [[int(y < h and x < w) for x in range(width)] for y in range(height)] for h, w in shapes
    ]


def test_dicts_tuples_and_single_images():
    first, second = torch.ones(3, 2, 5), torch.ones(3, 4, 1)
    assert ImageCollator()([first, second]).shape == (2, 3, 4, 5)
    image, label, name = ImageCollator()([(first, 1, "a"), (second, 0, "b")])
    assert image.shape == (2, 3, 4, 5)
    assert label.tolist() == [1, 0]
    assert name == ["a", "b"]
    samples = [{"id": 7, "image": first, "box": [1.0, 2.0]}, {"id": 8, "image": second, "box": []}]
    batch = ImageCollator(mask="image")(samples)
    assert [*batch] == ["id", "image", "box", "pixel_mask"]
    assert batch["pixel_mask"].sum((1, 2)).tolist() == [10, 4]
    own = [each | {"pixel_mask": np.float32(1)} for each in samples]
    assert ImageCollator(mask=True)(own)["pixel_mask"].tolist() == [1, 1]


def test_maps_of_labels_are_padded_with_what_the_loss_ignores():
    samples = [
        {"image": np.ones((3, h, w), np.uint8), "labels": np.full((h, w), 5, np.uint8)}
        for h, w in [(2, 3), (3, 2)]
    ]
    batch = ImageCollator(images=["image", "labels"])(samples)
    assert batch["labels"].tolist()[0] == [[5, 5, 5], [5, 5, 5], [-100] * 3]
    assert (batch["labels"].dtype, batch["image"].dtype) == (torch.int64, torch.uint8)
    given = ImageCollator({"labels": 255}, images=["image", "labels"])(samples)
    assert given["labels"].dtype == torch.uint8
    assert given["labels"][0, 2].tolist() == [255] * 3
    # Fields that are not named are stacked. What a batch holds does not depend on the samples.
    with pytest.raises(
        bw.errors.LengthsError, match=r"'labels' is of the shapes \[\[2, 3\], \[3, 2\]\]"
    ):
        ImageCollator(images="image")(samples)
    for each in samples:
        each["labels"] = [each["labels"]]
    assert isinstance(ImageCollator(images="image")(samples)["labels"], list)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_photographs_through_a_loader_take_the_planned_shapes(workers):
    crops = Crops()
    planner = bw.Planner(
        crops.sizes,
        batching=bw.Buckets(5, max_tokens=160_000, area="product", pad_to_multiple_of=16),
        world_size=2,
    )
    shapes = planner(0).layout.shapes
    collate = ImageCollator(shapes=shapes, mask=True)
    seen, pixels, indices = set(), 0, []
    for rank in (0, 1):
        sampler = PlanBatchSampler(planner, rank=rank, world_size=2)
        loader = DataLoader(crops, batch_sampler=sampler, collate_fn=collate, num_workers=workers)
        for batch in loader:
            rows, channels, height, width = batch["image"].shape
            seen.add((rows, (height, width)))
            assert channels == 3
            assert batch["pixel_mask"].shape == (rows, height, width)
            assert len(batch["label"]) == rows
            real = batch["pixel_mask"].any(dim=(1, 2))
            for row in torch.nonzero(real).ravel().tolist():
                crop = crops[int(batch["index"][row])]
                h, w = crop["image"].shape[1:]
                assert np.array_equal(batch["image"][row, :, :h, :w].numpy(), crop["image"])
                assert batch["label"][row] == crop["label"]
                assert int(batch["pixel_mask"][row].sum()) == h * w
                indices.append(crop["index"])
            hidden = batch["image"] * (1 - batch["pixel_mask"])[:, None]
            assert not hidden.any()
            assert (batch["label"][~real] == -100).all()
            pixels += batch["image"][:, 0].numel()
    assert sorted(indices) == list(range(80))
    assert seen <= set(shapes)
    assert pixels == planner(0).stats(crops.sizes).padded_tokens


def test_photographs_in_batches_of_a_budget():
    crops = Crops()
    batching = bw.TokenBudget(80_000, area="product", pad_to_multiple_of=8)
    planner = bw.Planner(crops.sizes, batching=batching)
    loader = DataLoader(
        crops,
        batch_sampler=PlanBatchSampler(planner),
        collate_fn=ImageCollator(pad_to_multiple_of=8),
    )
    taken = [batch["image"][:, 0].numel() for batch in loader]
    stats = planner(0).stats(crops.sizes)
    assert sum(taken) == stats.padded_tokens
    assert max(taken) == stats.max_batch_tokens <= 80_000


@pytest.mark.parametrize(
    ("options", "samples", "error", "said"),
    [
        ({}, [], bw.errors.LengthsError, "no sample"),
        ({}, [{"a": 1}], bw.errors.ColumnNotFoundError, "none of the fields .'a'. .* holds images"),
        ({"images": "b"}, [{"a": torch.ones(1, 1, 1)}], bw.errors.ColumnNotFoundError, "in 'b'"),
        ({"images": "a"}, [{"a": 3}], bw.errors.LengthsError, "sample 0 of the batch is int"),
        (
            {},
            [torch.ones(3, 2, 2), torch.ones(1, 2, 2)],
            bw.errors.LengthsError,
            "height and width only",
        ),
        (
            {},
            [torch.ones(3, 2, 2), torch.ones(3, 2, 2).int()],
            bw.errors.LengthsError,
            "sample 1 .*int32",
        ),
        ({}, [torch.ones(3, 2, 0)], bw.errors.LengthsError, "at least one pixel"),
        ({"mask": "b"}, [{"a": torch.ones(1, 1, 1)}], bw.errors.ColumnNotFoundError, "mask='b'"),
        (
            {"pad": {"b": 1}},
            [{"a": torch.ones(1, 1, 1)}],
            bw.errors.ColumnNotFoundError,
            "names 'b'",
        ),
        (
            {"shapes": [(1, (4, 4))]},
            [torch.ones(3, 5, 2)],
            bw.errors.BudgetError,
            "up to 5 × 2 pixels",
        ),
        ({"shapes": [(1, (4, 4))]}, [torch.ones(3, 2, 2)] * 2, bw.errors.BudgetError, "2 images"),
        (
            {"shapes": [(2, (4, 4))]},
            [{"a": torch.ones(3, 2, 2), "t": "x"}],
            bw.errors.ColumnNotFoundError,
            "ImageCollator.*'t' holds no numbers",
        ),
    ],
)
def test_what_cannot_be_padded_is_named(options, samples, error, said):
    with pytest.raises(error, match=said):
        ImageCollator(**options)(samples)


@pytest.mark.parametrize(
    "options",
    [{"pad_to_multiple_of": 0}, {"shapes": []}, {"shapes": [(2, 8)]}, {"shapes": [(2, (8, 8, 8))]}],
)
def test_settings_that_make_no_sense_are_refused(options):
    with pytest.raises(bw.errors.BudgetError, match="expected"):
        ImageCollator(**options)


def test_it_goes_to_workers():
    collate = ImageCollator({"image": 3}, shapes=((2, (8, 8)),), mask="image")
    assert pickle.loads(pickle.dumps(collate)) == collate  # noqa: S301
