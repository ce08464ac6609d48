"""Which fields of a batch are images, and the images as tensors."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from batchwright.errors import ColumnNotFoundError, LengthsError
from batchwright.torch.data.fields import Name


def image_fields(
    fields: Mapping[Any, Sequence[Any]], named: Name | Sequence[Name] | None, owner: str
) -> list[Any]:
    """Return the fields that hold images.

    Args:
        fields: Field → its value in each sample.
        named: Those that the user names. None: those whose values all have three dimensions.
        owner: The class that has the option, for errors.

    Raises:
        ColumnNotFoundError: If there is none, or not one that is named.
    """
    if named is None:
        found = [
            name
            for name, values in fields.items()
            if all(getattr(value, "ndim", 0) == 3 for value in values)
        ]
        if not found:
            message = (
                f"none of the fields {list(fields)} of the samples holds images in all of them, "
                "expected arrays or tensors [channels, height, width]."
            )
            raise ColumnNotFoundError(message)
        return found
    names = [named] if isinstance(named, str | int) else list(named)
    for name in names:
        if name not in fields:
            message = (
                f"{owner} looks for images in {name!r}, samples have the fields {list(fields)}."
            )
            raise ColumnNotFoundError(message)
    return names


def images_of(values: Sequence[Any], name: Name) -> list[Tensor]:
    """Turn the values of a field into tensors that differ in height and width only.

    Args:
        values: Arrays or tensors [..., height, width].
        name: The field, for errors.

    Raises:
        LengthsError: If one is no image, empty, or of another type or number of channels.
    """
    images = [_image(value) for value in values]
    first = images[0]
    for row, image in enumerate(images):
        if image is None or first is None or not all(image.shape):
            given = type(values[row]).__name__ if image is None else list(image.shape)
            message = (
                f"field {name!r} of sample {row} of the batch is {given}, expected an array or "
                "tensor [channels, height, width] with at least one pixel."
            )
            raise LengthsError(message)
        if image.shape[:-2] != first.shape[:-2] or image.dtype != first.dtype:
            message = (
                f"field {name!r} of sample {row} of the batch is {image.dtype}"
                f"{list(image.shape)}, the first {first.dtype}{list(first.shape)}. Images may "
                "differ in height and width only."
            )
            raise LengthsError(message)
    return [image for image in images if image is not None]


def _image(value: Any) -> Tensor | None:
    if isinstance(value, np.ndarray) and value.ndim >= 2 and value.dtype.kind in "biufc":
        return torch.from_numpy(np.ascontiguousarray(value))
    return value if isinstance(value, Tensor) and value.ndim >= 2 else None
