"""Images of varying size as one row of patches, without padding between them."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from batchwright.checks import check_positive
from batchwright.errors import BudgetError, ColumnNotFoundError, LengthsError
from batchwright.lengths import as_lengths
from batchwright.torch.data.fields import Name, columns_of
from batchwright.torch.data.images import image_fields, images_of
from batchwright.torch.data.packed_row import PackedRow
from batchwright.torch.data.stacking import PadValue, checked_pads, stacked
from batchwright.typing import IntArray, IntoLengths

_OWN = ("patches", "coordinates", "segment_ids", "cu_seqlens", "max_seqlen", "sizes")


def patch_counts(heights: IntoLengths, widths: IntoLengths, patch_size: int) -> IntArray:
    """Count the patches of images: the lengths to plan with.

    Args:
        heights: integer[n], pixels.
        widths: integer[n], pixels.
        patch_size: Pixels on each side of a patch.

    Returns:
        int64[n]; what is left of a side counts as a patch, as `PatchCollator` pads it.

    Raises:
        LengthsError: If a side is not a whole number of at least 1, or there are not as many
            heights as widths.
        BudgetError: If the size of patches is not at least 1.

    Example:
        >>> patch_counts([32, 30], [32, 65], 16)
        array([ 4, 10])
    """
    check_positive("patch_counts", patch_size=patch_size)
    high, wide = (as_lengths(sides).astype(np.int64, copy=False) for sides in (heights, widths))
    if high.shape != wide.shape:
        message = f"{high.size} heights for {wide.size} widths, expected as many."
        raise LengthsError(message)
    counts: IntArray = -(-high // patch_size) * -(-wide // patch_size)
    return counts


@dataclass(frozen=True)
class PatchCollator:
    """Cuts images into patches, and lays the images one behind the other in one row.

    So images of any size and shape share a batch, and no patch is computed for padding: Patch n'
    Pack (Dehghani et al., *Patch n' Pack: NaViT, a Vision Transformer for any Aspect Ratio and
    Resolution*, 2023, arXiv:2307.06304). T is the length of the row, d the number of images:

    - `patches`: [1, T, channels · p²], those of an image row by row; each is [channels, p, p],
      flattened. Images keep their type.
    - `coordinates`: int64[1, T, 2], row and column of each patch in its image.
    - `segment_ids`: int64[1, T], 0 for the first image; for `document_mask(…, causal=False)`.
    - `cu_seqlens`: int32[s + 1], where segments begin and end, from 0 to T.
    - `max_seqlen`: the longest segment, int.
    - `sizes`: int64[d, 2], pixels in height and width of each image, before it was padded.

    An image whose sides are no multiples of the patch is padded to such, at the bottom and on
    the right: `sizes` tells how much of its last patches is real.

    Without alignment and capacity, segments are the images. Gaps left by them hold padding that
    belongs to no image: it has segment id -1, coordinates 0, and is a segment of its own. So
    no patch of an image ever attends to it.

    Other fields are stacked under their own names, one entry for each image; the second of a
    tuple (image, label) is `labels`.

    Args:
        patch_size: Pixels on each side of a patch, p.
        image: The field of the images, by name or position. None: the one whose values are
            three-dimensional.
        capacity: Fill the row up to this, for shapes that never change: the capacity of
            `Packing`, planned with the lengths of `patch_counts`. None: as long as the images.
        align: Images begin at multiples of this, as in `Packing`.
        pad: What is put around images and into gaps.

    Returns:
        When called with the samples of a batch, dicts, tuples or single images: a dict. O(pixels).

    Raises:
        BudgetError: If a setting makes no sense; when called, if images exceed the capacity.
        LengthsError: When called, if images differ in more than height and width.
        ColumnNotFoundError: When called, if samples lack a field, hold no image, or have a
            field whose name is one of those above.

    Example:
        >>> import torch
        >>> batch = PatchCollator(2)([(torch.ones(3, 4, 4), 7), (torch.ones(3, 2, 3), 8)])
        >>> batch["patches"].shape, batch["segment_ids"].tolist(), batch["labels"].tolist()
        (torch.Size([1, 6, 12]), [[0, 0, 0, 0, 1, 1]], [7, 8])
        >>> batch["coordinates"][0].tolist(), batch["cu_seqlens"].tolist()
        ([[0, 0], [0, 1], [1, 0], [1, 1], [0, 0], [0, 1]], [0, 4, 6])
    """

    patch_size: int
    _: KW_ONLY
    image: Name | None = None
    capacity: int | None = None
    align: int = 1
    pad: PadValue = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        for name in ("patch_size", "align"):
            if getattr(self, name) is None:
                raise BudgetError(f"PatchCollator({name}=None): expected at least 1.")
        sizes = {"patch_size": self.patch_size, "capacity": self.capacity, "align": self.align}
        check_positive("PatchCollator", **sizes)
        if isinstance(checked_pads(self.pad, "PatchCollator"), dict):
            raise BudgetError(f"PatchCollator(pad={self.pad!r}): expected one number.")

    def __call__(self, samples: Sequence[Any]) -> dict[str, Any]:
        """Collate the samples of one batch."""
        fields = columns_of(samples)
        found = image_fields(fields, self.image, "PatchCollator")
        if len(found) > 1:
            message = f"the fields {found} of the samples all hold images. Name one: image=…."
            raise ColumnNotFoundError(message)
        images = images_of(fields.pop(found[0]), found[0])
        cut = [self._patches(image) for image in images]
        lengths = np.array([len(patches) for patches, _ in cut], dtype=np.int64)
        row = PackedRow.of(lengths, self.align, self.capacity, kind="image")
        batch: dict[str, Any] = {
            "patches": row.laid_out(torch.cat([patches for patches, _ in cut]), self.pad, found[0]),
            "coordinates": row.laid_out(torch.cat([places for _, places in cut]), 0, "coordinates"),
            "segment_ids": row.owners(),
            "cu_seqlens": row.cu_seqlens(),
            "max_seqlen": row.max_seqlen(),
            "sizes": torch.tensor([image.shape[-2:] for image in images]),
        }
        return batch | {
            name: stacked(values, name) for name, values in _named(fields, samples[0]).items()
        }

    def _patches(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Cut an image [c, h, w] into patches [rows · columns, c · p²], and say where each was."""
        size = self.patch_size
        if image.ndim != 3:
            message = f"an image of the batch is {list(image.shape)}, expected [channels, height, "
            raise LengthsError(message + "width].")
        channels, height, width = image.shape
        padded = functional.pad(image, (0, -width % size, 0, -height % size), value=self.pad)
        rows, columns = padded.shape[1] // size, padded.shape[2] // size
        split = padded.reshape(channels, rows, size, columns, size)
        patches = split.permute(1, 3, 0, 2, 4).reshape(rows * columns, channels * size * size)
        return patches, torch.cartesian_prod(torch.arange(rows), torch.arange(columns))


def _named(fields: Mapping[Any, Sequence[Any]], first: Any) -> dict[str, Sequence[Any]]:
    """Return the fields beside the image, with names."""
    if not isinstance(first, Mapping) and len(fields) > 1:
        message = (
            f"samples are tuples of {len(fields) + 1} fields, expected (image, label). Return "
            "dicts from the data set, so that each has a name."
        )
        raise ColumnNotFoundError(message)
    if not isinstance(first, Mapping):
        return dict(zip(["labels"], fields.values(), strict=False))
    taken = [name for name in fields if name in _OWN]
    if taken:
        message = f"samples have the fields {taken}, which the batch has of its own. Rename them."
        raise ColumnNotFoundError(message)
    return dict(fields)
