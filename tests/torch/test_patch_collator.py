"""Patches of several images in one row: as if each image went through the model alone."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

import batchwright as bw
from batchwright.torch import PatchCollator, PlanBatchSampler, document_mask, patch_counts
from tests.torch.photographs import Crops

sizes = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=5)
NAMES = ["patches", "coordinates", "segment_ids", "cu_seqlens", "max_seqlen", "sizes"]


def packed_by_hand(images, size, align, capacity, pad):
    """Go through images, patches, channels and pixels one at a time."""
    channels = len(images[0])
    patches, places, owners, edges = [], [], [], [0]

    def gap(count):
        if count:
            patches.extend([[pad] * (channels * size * size)] * count)
            places.extend([[0, 0]] * count)
            owners.extend([-1] * count)
            edges.append(len(patches))

    for owner, image in enumerate(images):
        height, width = len(image[0]), len(image[0][0])
        start = len(patches)
        for row in range(-(-height // size)):
            for column in range(-(-width // size)):
                patch = [
                    channel[y][x] if y < height and x < width else pad
                    for channel in image
                    for y in range(row * size, (row + 1) * size)
                    for x in range(column * size, (column + 1) * size)
                ]
                patches.append(patch)
                places.append([row, column])
                owners.append(owner)
        edges.append(len(patches))
        last = owner == len(images) - 1
        taken = len(patches) - start
        gap(capacity - len(patches) if capacity is not None and last else -taken % align)
    return patches, places, owners, edges


@settings(max_examples=50)
@given(
    shapes=sizes,
    size=st.integers(1, 4),
    channels=st.sampled_from((1, 3)),
    dtype=st.sampled_from([np.uint8, np.float32]),
    align=st.sampled_from((1, 4)),
    room=st.none() | st.integers(0, 9),
    pad=st.integers(0, 9),
    as_image=st.sampled_from((np.asarray, torch.from_numpy)),
)
def test_the_row_is_what_plain_loops_lay_out(
    shapes, size, channels, dtype, align, room, pad, as_image
):
    rng = np.random.default_rng(0)
    images = [rng.integers(1, 99, (channels, *shape)).astype(dtype) for shape in shapes]
    heights, widths = zip(*shapes, strict=True)
    counts = patch_counts(heights, widths, size)
    taken = int((-(-counts // align) * align).sum())
    capacity = None if room is None else taken + room
    collate = PatchCollator(size, align=align, capacity=capacity, pad=pad)
    batch = collate([{"image": as_image(image)} for image in images])
    patches, places, owners, edges = packed_by_hand(
        [image.tolist() for image in images], size, align, capacity, pad
    )
    assert [*batch] == NAMES
    assert batch["patches"].dtype == torch.from_numpy(images[0]).dtype
    assert batch["patches"].tolist() == [patches]
    assert batch["coordinates"].tolist() == [places]
    assert batch["coordinates"].dtype == batch["segment_ids"].dtype == torch.int64
    assert batch["segment_ids"].tolist() == [owners]
    assert batch["cu_seqlens"].tolist() == edges
    assert batch["cu_seqlens"].dtype == torch.int32
    assert batch["max_seqlen"] == int(np.diff(edges).max())
    assert batch["sizes"].tolist() == [list(shape) for shape in shapes]
    assert np.bincount(batch["segment_ids"][0] + 1).tolist()[1:] == counts.tolist()


def test_other_fields_are_stacked_one_entry_for_each_image():
    first, second = torch.ones(1, 2, 2), torch.ones(1, 4, 4)
    batch = PatchCollator(2)([(first, 3), (second, 4)])
    assert batch["labels"].tolist() == [3, 4]
    assert [*PatchCollator(2)([first, second])] == NAMES
    samples = [
        {"pixels": first, "depth": first, "label": 1.5, "name": "a", "box": np.zeros((1, 4))},
        {"pixels": second, "depth": first, "label": 2.5, "name": "b", "box": np.zeros((1, 4))},
    ]
    batch = PatchCollator(2, image="pixels")(samples)
    assert batch["depth"].shape == (2, 1, 2, 2)
    assert batch["label"].tolist() == [1.5, 2.5]
    assert batch["name"] == ["a", "b"]
    assert batch["box"].shape == (2, 1, 4)


class VisionTransformer(nn.Module):
    """Two layers over patches with learnt rows and columns: what leaks between images shows."""

    def __init__(self, patch_size, width=32, heads=4, classes=5):
        super().__init__()
        self.embed = nn.Linear(3 * patch_size**2, width)
        self.rows, self.columns = nn.Embedding(32, width), nn.Embedding(32, width)
        self.mix = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(2))
        self.out = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.head = nn.Linear(width, classes)
        self.heads = heads

    def forward(self, batch):
        owners, count = batch["segment_ids"][0], len(batch["sizes"])
        row, column = batch["coordinates"].unbind(-1)
        hidden = self.embed(batch["patches"].double() / 255) + self.rows(row) + self.columns(column)
        mask = document_mask(batch["segment_ids"], causal=False)
        for mix, out in zip(self.mix, self.out, strict=True):
            query, key, value = (
                part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
                for part in mix(hidden).chunk(3, dim=-1)
            )
            mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
            hidden = hidden + out(mixed.transpose(1, 2).flatten(-2)).tanh()
        real = owners >= 0
        sums = hidden.new_zeros(count, hidden.shape[-1]).index_add(0, owners[real], hidden[0, real])
        return self.head(sums / torch.bincount(owners[real], minlength=count)[:, None])


@pytest.mark.parametrize(("align", "capacity"), [(1, None), (8, None), (8, 512)])
def test_packed_images_give_what_each_gives_alone(align, capacity):
    crops = Crops(6, shortest=16, longest=100)
    torch.manual_seed(0)
    model = VisionTransformer(16).double()
    samples = [crops[i] for i in range(6)]
    together = model(PatchCollator(16, align=align, capacity=capacity)(samples))
    alone = torch.cat([model(PatchCollator(16)([sample])) for sample in samples])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)
    # And a model that attends across images would be told apart from it.
    batch = PatchCollator(16)(samples)
    whole = batch | {"segment_ids": torch.zeros_like(batch["segment_ids"]), "sizes": [None]}
    assert (model(whole) - alone).abs().max() > 1e-3


@pytest.mark.parametrize("align", [1, 8])
def test_photographs_through_a_loader_have_one_shape_and_every_patch(align):
    crops = Crops(60, longest=120)
    lengths = patch_counts(*crops.sizes.T, 16)
    planner = bw.Planner(lengths, batching=bw.Packing(128, align=align), world_size=2)
    collate = PatchCollator(16, capacity=128, align=align)
    seen = []
    for rank in (0, 1):
        sampler = PlanBatchSampler(planner, rank=rank, world_size=2)
        for batch in DataLoader(crops, batch_sampler=sampler, collate_fn=collate):
            assert batch["patches"].shape == (1, 128, 3 * 16 * 16)
            assert batch["patches"].dtype == torch.uint8
            for image, index in enumerate(batch["index"].tolist()):
                crop = crops[index]["image"]
                inside = batch["segment_ids"][0] == image
                assert int(inside.sum()) == lengths[index]
                height, width = batch["sizes"][image].tolist()
                # Put the patches together again: the crop, at the top left of its padding.
                grid = (batch["coordinates"][0, inside].amax(0) + 1).tolist()
                tiles = batch["patches"][0, inside].reshape(*grid, 3, 16, 16)
                whole = tiles.permute(2, 0, 3, 1, 4).reshape(3, grid[0] * 16, grid[1] * 16)
                assert np.array_equal(whole[:, :height, :width].numpy(), crop)
                assert int(whole.sum()) == int(crop.astype(int).sum())
                seen.append(index)
    assert sorted(seen) == list(range(60))


@pytest.mark.parametrize(
    ("options", "samples", "error", "said"),
    [
        ({}, [], bw.errors.LengthsError, "no sample"),
        ({}, [{"a": 1}], bw.errors.ColumnNotFoundError, "holds images"),
        ({"image": "b"}, [{"a": torch.ones(1, 1, 1)}], bw.errors.ColumnNotFoundError, "in 'b'"),
        (
            {"image": "a"},
            [{"a": torch.ones(2, 2)}],
            bw.errors.LengthsError,
            "channels, height, width",
        ),
        (
            {},
            [{"a": torch.ones(1, 1, 1), "b": torch.ones(1, 1, 1)}],
            bw.errors.ColumnNotFoundError,
            "all hold images. Name one",
        ),
        (
            {},
            [torch.ones(3, 2, 2), torch.ones(1, 2, 2)],
            bw.errors.LengthsError,
            "height and width only",
        ),
        ({}, [torch.ones(3, 0, 2)], bw.errors.LengthsError, "at least one pixel"),
        ({}, [(torch.ones(1, 1, 1), 1, 2)], bw.errors.ColumnNotFoundError, "tuples of 3 fields"),
        (
            {},
            [{"a": torch.ones(1, 1, 1), "sizes": 1}],
            bw.errors.ColumnNotFoundError,
            "'sizes'.* Rename them",
        ),
        (
            {"capacity": 4},
            [torch.ones(1, 4, 4), torch.ones(1, 1, 1)],
            bw.errors.BudgetError,
            "2 images take 5 tokens .* capacity=4",
        ),
    ],
)
def test_what_cannot_be_packed_is_named(options, samples, error, said):
    with pytest.raises(error, match=said):
        PatchCollator(2, **options)(samples)


@pytest.mark.parametrize("options", [{"patch_size": 0}, {"capacity": 0}, {"align": 0}])
def test_settings_that_make_no_sense_are_refused(options):
    with pytest.raises(bw.errors.BudgetError, match="expected an integer of at least 1"):
        PatchCollator(**{"patch_size": 2} | options)


def test_counts_of_patches():
    assert patch_counts(np.array([16, 17], np.uint16), [1, 32], 16).tolist() == [1, 4]
    with pytest.raises(bw.errors.LengthsError, match="2 heights for 1 widths"):
        patch_counts([3, 4], [3], 2)
    with pytest.raises(bw.errors.LengthsError, match=r"(is|are) 0, (the first is )?lengths\[0\]"):
        patch_counts([0], [3], 2)
    with pytest.raises(bw.errors.BudgetError, match="patch_size=0"):
        patch_counts([3], [3], 0)


def test_it_goes_to_workers():
    collate = PatchCollator(16, image="image", capacity=64, align=8)
    assert pickle.loads(pickle.dumps(collate)) == collate  # noqa: S301
