"""Images of varying size: padded to one size, or cut into patches that share a row."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from batchwright._checks import check_positive, keep_whole
from batchwright.errors import BudgetError, ColumnNotFoundError, LengthsError
from batchwright.layout import Shape
from batchwright.lengths import as_lengths
from batchwright.torch.data.pack_collator import PackedRow
from batchwright.torch.data.samples import (
    Columns,
    Name,
    Padding,
    Pads,
    PadValue,
    assembled,
    checked_pads,
    checked_shapes,
    chosen_field,
    columns_of,
    filled,
    fitting,
    stacked,
)
from batchwright.typing import Batch, Field, IntArray, IntoLengths, Sample


@dataclass(frozen=True)
class ImageCollator:
    """Pads the images of a batch to the largest height and width, and stacks everything else.

    Images are arrays or tensors [channels, height, width], padded at the bottom and on the right.
    Plan with lengths [n, 2] of heights and widths: ``TokenBudget(…, area="product")`` or
    ``Buckets(…, area="product")``.

    Args:
        pad: Padding, as in `PadCollator`.
        images: The fields that are padded, by name or position: [..., height, width]. None: all
            whose values are three-dimensional.
        pad_to_multiple_of: Sides are padded to a multiple of this, such as the size of a patch.
        shapes: (rows, (height, width)) of the only shapes there may be, as in `PadCollator`.
        mask: Add `pixel_mask`, int64[batch, height, width], 1 at pixels and 0 at padding, of the
            field so named; True is the first.

    Raises:
        BudgetError: If a setting is invalid; when called, if images fit into no shape.
        LengthsError: When called, if images differ in more than height and width.
        ColumnNotFoundError: When called, if samples lack a field, or hold no images.

    Example:
        >>> collate = ImageCollator(pad_to_multiple_of=4, mask=True)
        >>> batch = collate([(torch.ones(3, 5, 2), 1), (torch.ones(3, 2, 4), 0)])
        >>> [list(field.shape) for field in batch], batch[1].tolist()
        ([[2, 3, 8, 4], [2], [2, 8, 4]], [1, 0])
    """

    pad: Pads = 0
    _: KW_ONLY
    images: Name | Sequence[Name] | None = None
    pad_to_multiple_of: int = 1
    shapes: Sequence[Shape] | None = None
    mask: bool | Name = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "pad", checked_pads(self.pad, "ImageCollator"))
        keep_whole(self, "pad_to_multiple_of")
        if self.shapes is not None:
            shapes = checked_shapes(self.shapes, "ImageCollator", "(height, width)", columns=2)
            object.__setattr__(self, "shapes", shapes)

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """Collate the samples of one batch."""
        columns = columns_of(samples)
        padding = Padding.of(self.pad, list(columns), "ImageCollator")
        images = _images_in(columns, self.images, "ImageCollator")
        sizes = {name: np.array([each.shape[-2:] for each in images[name]]) for name in images}
        rows, shape = None, None
        if self.shapes is not None:
            largest = np.max([each.max(axis=0) for each in sizes.values()], axis=0)
            given = f"{len(samples)} images of up to {largest[0]} × {largest[1]} pixels"
            rows, shape = fitting(self.shapes, len(samples), largest, given)
        padded: dict[Name, Tensor] = {}
        for name, values in images.items():
            first, multiple = values[0], self.pad_to_multiple_of
            sides = shape or (-(-sizes[name].max(axis=0) // multiple) * multiple).tolist()
            size = (len(values), *first.shape[:-2], *sides)
            padded[name] = filled(size, padding.for_field(name, first.dtype), first.dtype, name)
            for row, image in enumerate(values):
                padded[name][row, ..., : image.shape[-2], : image.shape[-1]] = image
        batch = padding.batch(columns, padded, rows)
        extras: dict[str, Tensor] = {}
        if self.mask is not False:
            chosen = chosen_field(self.mask, images, "ImageCollator(mask", "images")
            mask = torch.zeros(len(batch[chosen]), *batch[chosen].shape[-2:], dtype=torch.int64)
            for row, (height, width) in enumerate(sizes[chosen].tolist()):
                mask[row, :height, :width] = 1
            extras["pixel_mask"] = mask
        return assembled(samples[0], batch, extras)


@dataclass(frozen=True)
class PatchCollator:
    """Cuts images into patches, and concatenates the images in one row of T patches.

    Images of any size and shape share a batch, and no patch is computed for padding. A batch has:

    - `patches`: [1, T, channels · p²]; each is [channels, p, p], flattened.
    - `coordinates`: int64[1, T, 2], row and column of each patch in its image.
    - `segment_ids`: int64[1, T], 0 for the first image; for `document_mask(…, causal=False)`.
    - `cu_seqlens`: int32[s + 1], where segments begin and end; `max_seqlen`: the longest.
    - `sizes`: int64[images, 2], height and width in pixels, before padding.

    Segments are the images, padded to whole patches, and gaps: these have segment id -1. Other
    fields are stacked under their own names; the second of a tuple (image, label) is `labels`.

    Args:
        patch_size: Pixels on each side of a patch, p.
        image: The field of the images, by name or position. None: the one whose values are
            three-dimensional.
        capacity: Fill the row up to this, as `Packing` planned it with `patch_counts`.
        align: Images begin at multiples of this, as in `Packing`.
        pad: What is put around images and into gaps.

    Raises:
        BudgetError: If a setting is invalid; when called, if images exceed the capacity.
        LengthsError: When called, if images differ in more than height and width.
        ColumnNotFoundError: When called, if samples lack a field, hold no image, or have a
            field whose name is one of those above.

    Example:
        >>> batch = PatchCollator(2)([(torch.ones(3, 4, 4), 7), (torch.ones(3, 2, 3), 8)])
        >>> batch["patches"].shape, batch["segment_ids"].tolist(), batch["labels"].tolist()
        (torch.Size([1, 6, 12]), [[0, 0, 0, 0, 1, 1]], [7, 8])

    Source: M. Dehghani et al., *Patch n' Pack: NaViT*, 2023, arXiv:2307.06304.
    """

    patch_size: int
    _: KW_ONLY
    image: Name | None = None
    capacity: int | None = None
    align: int = 1
    pad: PadValue = 0

    def __post_init__(self) -> None:
        keep_whole(self, "patch_size", "align", optional=("capacity",))
        if isinstance(checked_pads(self.pad, "PatchCollator"), dict):
            raise BudgetError(f"PatchCollator(pad={self.pad!r}): expected one number.")

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Field]:
        """Collate the samples of one batch."""
        fields = columns_of(samples)
        found = _images_in(fields, self.image, "PatchCollator")
        if len(found) > 1:
            raise ColumnNotFoundError(
                f"the fields {list(found)} of the samples all hold images. Name one: image=…."
            )
        name, images = found.popitem()
        del fields[name]
        patches, places = zip(*map(self._patches, images), strict=True)
        lengths = np.array([len(each) for each in patches], dtype=np.int64)
        row = PackedRow.of(lengths, self.align, self.capacity, kind="image")
        batch: dict[str, Field] = {
            "patches": row.laid_out(torch.cat(patches), self.pad, name),
            "coordinates": row.laid_out(torch.cat(places), 0, "coordinates"),
            "segment_ids": row.owners(),
            "cu_seqlens": row.cu_seqlens(),
            "max_seqlen": row.max_seqlen(),
            "sizes": torch.tensor([image.shape[-2:] for image in images]),
        }
        if not isinstance(samples[0], Mapping):
            if len(fields) > 1:
                raise ColumnNotFoundError(
                    f"samples are tuples of {len(fields) + 1} fields, expected (image, label). "
                    "Return dicts from the data set, so that each has a name."
                )
            fields = dict(zip(["labels"], fields.values(), strict=False))
        if taken := fields.keys() & batch.keys():
            raise ColumnNotFoundError(
                f"samples have the fields {sorted(taken)}, which PatchCollator adds. Rename them."
            )
        return batch | {str(name): stacked(values, name) for name, values in fields.items()}

    def _patches(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Cut an image [c, h, w] into patches [rows · columns, c · p²], with their coordinates."""
        size = self.patch_size
        if image.ndim != 3:
            raise LengthsError(
                f"an image of the batch is {list(image.shape)}, expected [channels, height, width]."
            )
        channels, height, width = image.shape
        padded = functional.pad(image, (0, -width % size, 0, -height % size), value=self.pad)
        rows, columns = padded.shape[1] // size, padded.shape[2] // size
        split = padded.reshape(channels, rows, size, columns, size)
        patches = split.permute(1, 3, 0, 2, 4).reshape(rows * columns, channels * size * size)
        return patches, torch.cartesian_prod(torch.arange(rows), torch.arange(columns))


def patch_counts(heights: IntoLengths, widths: IntoLengths, patch_size: int) -> IntArray:
    """Count the patches of images, int64[n]: the lengths to plan with, as `PatchCollator` pads.

    Args:
        heights: integer[n], pixels.
        widths: integer[n], pixels.
        patch_size: Pixels on each side of a patch.

    Example:
        >>> patch_counts([32, 30], [32, 65], 16)
        array([ 4, 10])
    """
    check_positive("patch_counts", patch_size=patch_size)
    high, wide = (as_lengths(sides).astype(np.int64, copy=False) for sides in (heights, widths))
    if high.shape != wide.shape:
        raise LengthsError(f"{high.size} heights for {wide.size} widths, expected as many.")
    counts: IntArray = -(-high // patch_size) * -(-wide // patch_size)
    return counts


def _images_in(
    columns: Columns, named: Name | Sequence[Name] | None, owner: str
) -> dict[Name, list[Tensor]]:
    """Return the images [..., height, width] of the fields named, else of those of 3 dimensions."""
    if named is None:
        names = [
            name
            for name, values in columns.items()
            if all(getattr(value, "ndim", 0) == 3 for value in values)
        ]
    else:
        names = [named] if isinstance(named, str | int) else list(named)
    if not names:
        raise ColumnNotFoundError(
            f"none of the fields {list(columns)} of the samples holds images in all of them, "
            "expected arrays or tensors [channels, height, width]."
        )
    found: dict[Name, list[Tensor]] = {}
    for name in names:
        if name not in columns:
            raise ColumnNotFoundError(
                f"{owner} looks for images in {name!r}, samples have the fields {list(columns)}."
            )
        images = found[name] = [_image(value) for value in columns[name]]
        for row, image in enumerate(images):
            expected, first = "[channels, height, width] with at least one pixel", images[0]
            good = isinstance(image, Tensor) and image.ndim > 1 and all(image.shape)
            if good and (image.shape[:-2], image.dtype) != (first.shape[:-2], first.dtype):
                good, expected = False, f"{first.dtype}{list(first.shape)} like the first"
            if not good:
                given = type(image).__name__
                if hasattr(image, "shape"):
                    given = f"{image.dtype}{list(image.shape)}"
                raise LengthsError(
                    f"field {name!r} of sample {row} of the batch is {given}, expected an array or "
                    f"tensor {expected}. Images may differ in height and width only."
                )
    return found


def _image(value: Field) -> Field:
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return torch.from_numpy(np.ascontiguousarray(value))
    return value
