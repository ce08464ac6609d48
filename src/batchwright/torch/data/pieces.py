"""Pieces of samples: what a plan with ``oversize="split"`` asks a data set for."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from torch.utils.data import Dataset

from batchwright.errors import ColumnNotFoundError, LengthsError, PlanMismatchError
from batchwright.torch.data.fields import is_sequence


class Piece(NamedTuple):
    """A part of a sample.

    Attributes:
        sample: Its index.
        start: Where the piece begins, in tokens.
        stop: Where it ends at the latest; the last piece of a sample is shorter. None: at the
            sample's end.
    """

    sample: int
    start: int
    stop: int | None


IntoPiece: TypeAlias = Piece | tuple[int, int, int | None] | int
"""A piece, or a plain index for a whole sample."""


class PieceDataset(Dataset[Any]):
    """Cuts pieces out of the samples of another data set.

    Guarantees that the pieces of a sample, one behind the other, are the sample. Fields that
    are no sequences, such as a label or a string, belong to every piece.

    Args:
        dataset: The whole samples: each a dict or tuple of fields, or one sequence. Its
            `__getitems__` is used where it has one.
        fields: The names (for tuples the positions) of the fields to cut, along their first
            dimension. None: every list, array and tensor, which then must be equally long.

    Raises:
        LengthsError: When read, if fields to cut differ in length and `fields` was not given.
        PlanMismatchError: When read, if a piece begins behind its sample's end.
        ColumnNotFoundError: When read, if a sample lacks one of `fields`.

    Example:
        >>> documents = [{"input_ids": [5, 6, 7, 8, 9], "source": "book"}]
        >>> PieceDataset(documents)[Piece(0, 3, 6)]
        {'input_ids': [8, 9], 'source': 'book'}
    """

    def __init__(
        self, dataset: Any, *, fields: Sequence[str] | Sequence[int] | None = None
    ) -> None:
        self.dataset = dataset
        self.fields = None if fields is None else tuple(fields)

    def __len__(self) -> int:
        """Count the whole samples."""
        return len(self.dataset)

    def __getitem__(self, piece: IntoPiece) -> Any:
        """Return a piece of a sample; a plain index gives the whole sample."""
        if not isinstance(piece, tuple):
            return self.dataset[piece]
        return self._cut(self.dataset[piece[0]], Piece(*piece))

    def __getitems__(self, pieces: Sequence[IntoPiece]) -> list[Any]:
        """Return the pieces of a batch; the data set underneath is asked once, if it can be."""
        if not hasattr(self.dataset, "__getitems__"):
            return [self[piece] for piece in pieces]
        samples = self.dataset.__getitems__(
            [piece[0] if isinstance(piece, tuple) else piece for piece in pieces]
        )
        return [
            self._cut(sample, Piece(*piece)) if isinstance(piece, tuple) else sample
            for sample, piece in zip(samples, pieces, strict=True)
        ]

    def _cut(self, sample: Any, piece: Piece) -> Any:
        if isinstance(sample, Mapping):
            return self._cut_fields(dict(sample), piece)
        if isinstance(sample, tuple):
            return tuple(self._cut_fields(dict(enumerate(sample)), piece).values())
        return self._cut_fields({"sample": sample}, piece)["sample"]

    def _cut_fields(self, sample: dict[Any, Any], piece: Piece) -> dict[Any, Any]:
        names = self.fields
        if names is None:
            names = tuple(name for name, value in sample.items() if is_sequence(value))
            sizes = {name: len(sample[name]) for name in names}
            if len(set(sizes.values())) > 1:
                message = (
                    f"sample {piece.sample} has fields of different lengths, {sizes}: say which "
                    "of them to cut, PieceDataset(dataset, fields=[…])."
                )
                raise LengthsError(message)
        for name in names:
            if name not in sample:
                message = (
                    f"sample {piece.sample} has no field {name!r}, it has {list(sample)}. "
                    "Correct PieceDataset(fields=…)."
                )
                raise ColumnNotFoundError(message)
            if piece.start >= len(sample[name]):
                message = (
                    f"sample {piece.sample} has {len(sample[name])} tokens in {name!r}, the plan "
                    f"asks for a piece that begins at {piece.start}. Plan with the lengths of "
                    "this data."
                )
                raise PlanMismatchError(message)
            sample[name] = sample[name][piece.start : piece.stop]
        return sample
