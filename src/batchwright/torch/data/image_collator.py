"""Batches of images of varying size, padded at the bottom and on the right."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from batchwright.checks import check_positive
from batchwright.errors import BudgetError
from batchwright.layout import Shape
from batchwright.torch.data.fields import Name, columns_of
from batchwright.torch.data.images import image_fields, images_of
from batchwright.torch.data.stacking import (
    Padding,
    Pads,
    PadValue,
    assembled,
    checked_pads,
    chosen_field,
    filled,
    filled_up,
    stacked,
)
from batchwright.typing import IntArray


@dataclass(frozen=True)
class ImageCollator:
    """Pads the images of a batch to the largest height and width, and stacks everything else.

    Images are arrays or tensors [channels, height, width] of varying size, and keep their type.
    They are padded at the bottom and on the right, so that pixels stay where they are.

    Plan batches with little padding from both sides: ``TokenBudget(…, area="product")`` for
    lengths [n, 2] of heights and widths; or ``Buckets(…, area="product")`` where a compiler wants
    a few shapes only.

    Args:
        pad: What is put around images: one value for all, a mapping by name, or for tuples one
            value for each position. Fields not named get 0; labels (`labels`, `label`, `label_ids`)
            -100, unless they are named.
        images: The fields that are padded, by name or position. None: all whose values are
            three-dimensional. Named ones may have any number of dimensions from two on, the last
            two being height and width: a map of labels [height, width], say.
        pad_to_multiple_of: Sides are padded to a multiple of this, such as the size of a patch,
            as in `TokenBudget`.
        shapes: (rows, (height, width)) of the only shapes there may be: ``plan.layout.shapes`` of
            `Buckets`. Images are padded to the first that holds them all, and empty images fill
            the batch up, with -100 in `labels` and 0 in other fields.
        mask: Add `pixel_mask`, int64[batch, height, width], 1 at pixels and 0 at padding, of the
            field so named; True is the first. The name is that of transformers.

    Returns:
        When called with the samples of a batch: a dict for dicts, a tuple for tuples with the
        mask behind the fields, the tensor itself for single images (with the mask: a tuple).
        O(pixels).

    Raises:
        BudgetError: If a setting makes no sense; when called, if images fit into no shape.
        LengthsError: When called, if images differ in more than height and width.
        ColumnNotFoundError: When called, if samples lack a field, or hold no images.

    Example:
        >>> import torch
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
        """Check the settings."""
        object.__setattr__(self, "pad", checked_pads(self.pad, "ImageCollator"))
        if self.pad_to_multiple_of is None:
            raise BudgetError("ImageCollator(pad_to_multiple_of=None): expected at least 1.")
        check_positive("ImageCollator", pad_to_multiple_of=self.pad_to_multiple_of)
        shapes = self.shapes
        if shapes is not None and (not shapes or any(np.size(each) != 2 for _, each in shapes)):
            message = f"ImageCollator(shapes={shapes}): expected (rows, (height, width)) of each."
            raise BudgetError(message)

    def __call__(self, samples: Sequence[Any]) -> Any:
        """Collate the samples of one batch."""
        fields = columns_of(samples)
        padding = Padding.of(self.pad, list(fields), "ImageCollator")
        images = {
            name: images_of(fields[name], name)
            for name in image_fields(fields, self.images, "ImageCollator")
        }
        sizes = {
            name: np.array([image.shape[-2:] for image in each], dtype=np.int64)
            for name, each in images.items()
        }
        rows, shape = self._shape(sizes, len(samples))
        batch: dict[Any, Any] = {}
        for name, values in fields.items():
            if name in images:
                pad = padding.for_field(name, images[name][0].dtype)
                size = shape or self._largest(sizes[name])
                batch[name] = _padded(images[name], pad, size, name)
            else:
                batch[name] = stacked(values, name)
            if rows is not None:
                empty = rows - len(samples)
                batch[name] = filled_up(batch[name], empty, padding, name, "ImageCollator")
        extras: dict[str, Tensor] = {}
        if self.mask is not False:
            chosen = chosen_field(self.mask, images, "ImageCollator(mask", "images")
            inside = np.zeros((len(batch[chosen]), 2), dtype=np.int64)
            inside[: len(samples)] = sizes[chosen]
            extras["pixel_mask"] = _mask(inside, *batch[chosen].shape[-2:])
        return assembled(samples[0], batch, extras)

    def _largest(self, sizes: IntArray) -> tuple[int, int]:
        multiple = self.pad_to_multiple_of
        height, width = (-(-sizes.max(axis=0) // multiple) * multiple).tolist()
        return height, width

    def _shape(
        self, sizes: Mapping[Any, IntArray], num_samples: int
    ) -> tuple[int | None, tuple[int, int] | None]:
        """Return the rows, and height and width, that the batch is to have; None: as it comes."""
        if self.shapes is None:
            return None, None
        largest = np.max([each.max(axis=0) for each in sizes.values()], axis=0)
        for rows, sides in self.shapes:
            height, width = np.asarray(sides).tolist()
            if rows >= num_samples and height >= largest[0] and width >= largest[1]:
                return rows, (height, width)
        message = (
            f"{num_samples} images of up to {largest[0]} × {largest[1]} pixels fit into none of "
            f"the shapes {list(self.shapes)}. Take those of the plan: plan.layout.shapes."
        )
        raise BudgetError(message)


def _padded(images: Sequence[Tensor], pad: PadValue, shape: tuple[int, int], name: Name) -> Tensor:
    first = images[0]
    padded = filled((len(images), *first.shape[:-2], *shape), pad, first.dtype, name)
    for row, image in enumerate(images):
        height, width = image.shape[-2:]
        padded[row, ..., :height, :width] = image
    return padded


def _mask(sizes: IntArray, height: int, width: int) -> Tensor:
    rows, columns = (torch.from_numpy(sizes[:, side])[:, None] for side in (0, 1))
    inside_rows, inside_columns = torch.arange(height) < rows, torch.arange(width) < columns
    return (inside_rows[:, :, None] & inside_columns[:, None, :]).to(torch.int64)
