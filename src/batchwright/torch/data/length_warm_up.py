"""Sequences that get longer: rows are cut into short pieces at first, and lose no token."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from batchwright._checks import check_positive
from batchwright.errors import (
    BudgetError,
    ColumnNotFoundError,
    LengthsError,
    PlanError,
    UpdateError,
)
from batchwright.pacing import LengthPacing
from batchwright.torch.data.rows import Reading
from batchwright.torch.data.samples import LABEL_IGNORE, Name, Padding, PadValue, checked_pads
from batchwright.torch.data.trees import like, parts_of, tensors_of
from batchwright.typing import Batch, Field

STATE_VERSION = 1
_COUNTS = ("tokens", "tokens_cut", "total_tokens", "length")


class LengthWarmUp:
    """Cuts the rows of batches to the length that a pacing allows at present.

    A row of n tokens becomes ⌈n ÷ length⌉ rows, equal to within one token, so few cells are
    padding. No token is lost, and each keeps its label. Labels have to be shifted before: a model
    that shifts them itself would lose one at each border.

    Call it on each batch in the training loop, before `windows` or the weight of the update; in a
    worker of a DataLoader it would not see what the others consumed. Progress is the real tokens
    returned so far ÷ `total_tokens`; each rank counts its own, times `world_size`.

    Fields of [rows, length, …] are cut, and have to be of one length. Fields of one value a row,
    and lists with one entry a row, are repeated for each piece. Positions stay those in the whole
    row. Pieces are padded on the right.

    Args:
        pacing: Progress → the longest row allowed: `batchwright.pacing.length_warm_up`.
        total_tokens: Real tokens of the whole run, on all ranks.
        world_size: Ranks, each with a share of the tokens like this one's.
        pad: Padding of pieces, as in `PadCollator`. A tuple of several sequences needs it.
        pad_to_multiple_of: Pieces are padded to a multiple of this, if the length allows.
        lengths: The field that marks tokens and padding: a mask [rows, length], or int[rows] of
            rows that are padded on the right. None: ``attention_mask``, else ``lengths``, of a
            dict; else every cell is a token.
        truncate: Drop what is beyond the length instead, as the source does.

    Attributes:
        tokens: Real tokens returned so far, on all ranks.
        tokens_cut: Real tokens dropped so far, on all ranks: 0 without `truncate`.

    Raises:
        BudgetError: If a setting is invalid; when called, if a tuple's padding is unknown.
        ColumnNotFoundError: When called, if the batch lacks a field named here.
        LengthsError: When called, if fields have no common rows and length.

    Example:
        >>> import batchwright.pacing
        >>> pacing = batchwright.pacing.length_warm_up(2, 4, step=2, reach=0.5)
        >>> warm_up = LengthWarmUp(pacing, total_tokens=12)
        >>> batch = {"input_ids": torch.tensor([[1, 2, 3, 0], [4, 5, 6, 7]]),
        ...          "lengths": torch.tensor([3, 4])}
        >>> {name: value.tolist() for name, value in warm_up(batch).items()}
        {'input_ids': [[1, 0], [2, 3], [4, 5], [6, 7]], 'lengths': [1, 2, 2, 2]}
        >>> warm_up.tokens, warm_up.length
        (7, 4)

    Source: C. Li, M. Zhang, Y. He, *The Stability-Efficiency Dilemma: Investigating Sequence Length
    Warmup for Training GPT Models*, 2022, arXiv:2108.06084; Composer's `SeqLengthWarmup`.
    """

    def __init__(
        self,
        pacing: LengthPacing,
        *,
        total_tokens: int,
        world_size: int = 1,
        pad: PadValue | Mapping[Any, PadValue] | Sequence[PadValue] | None = None,
        pad_to_multiple_of: int = 1,
        lengths: Name | None = None,
        truncate: bool = False,
    ) -> None:
        counts = {"total_tokens": total_tokens, "world_size": world_size}
        check_positive("LengthWarmUp", **counts, pad_to_multiple_of=pad_to_multiple_of)
        self.pacing = pacing
        self.total_tokens = int(total_tokens)
        self.world_size = int(world_size)
        self.truncate = truncate
        self.tokens = 0
        self.tokens_cut = 0
        self._pad = None if pad is None else checked_pads(pad, "LengthWarmUp")
        self._multiple = int(pad_to_multiple_of)
        self._lengths = lengths

    @property
    def progress(self) -> float:
        """The share of the run's tokens that was returned so far."""
        return self.tokens / self.total_tokens

    @property
    def length(self) -> int:
        """The longest row allowed at present."""
        return self._length_at(self.tokens)

    def __call__(self, batch: Batch) -> Batch:
        """Return a batch of the same kind, with rows of at most the present length. O(cells)."""
        fields = _fields_of(batch)
        named = self._name_of_lengths(fields)
        real = _real(fields, named)
        pads = self._pads(fields, named)
        length, present = self.length, int(real.sum())
        if real.shape[1] <= length or not len(real):
            self.tokens += present * self.world_size
            return batch
        rows, columns, inside = self._pieces(real, length)
        sizes = (real[rows[:, None], columns] & inside).sum(1)
        left = int(sizes.sum())
        self.tokens += left * self.world_size
        self.tokens_cut += (present - left) * self.world_size
        made: dict[Any, Any] = {}
        for name, value in fields.items():
            if name in {"lengths", named} and getattr(value, "ndim", 0) == 1:
                made[name] = sizes.to(value)
            elif not _is_cut(value):
                made[name] = Reading(len(real)).take({name: value}, rows)[name]
            else:
                pad = (
                    False if value.dtype == torch.bool and pads[name] not in {0, 1} else pads[name]
                )
                cells = value[rows.to(value.device)[:, None], columns.to(value.device)]
                outside = ~inside.to(value.device)[(...,) + (None,) * (value.ndim - 2)]
                made[name] = cells.masked_fill_(outside, pad)
        return made[0] if isinstance(batch, Tensor) else like(batch, made)

    def state_dict(self) -> dict[str, int]:
        """Return where the run is, as JSON can keep it: the state of any rank will do."""
        return {"version": STATE_VERSION, **{name: getattr(self, name) for name in _COUNTS}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a state was saved; the world may be of another size.

        Raises:
            PlanError: If it is no state, or of another pacing or `total_tokens`.
        """
        known = isinstance(state, Mapping) and state.get("version") == STATE_VERSION
        values = [state.get(name) for name in _COUNTS] if known else []
        if not known or not all(type(value) is int and value >= 0 for value in values):
            raise PlanError(
                f"no state of LengthWarmUp: {state!r}. Load what state_dict() returned, in format "
                f"{STATE_VERSION}: whole numbers by the names {', '.join(_COUNTS)}."
            )
        length = self._length_at(state["tokens"])
        if (state["total_tokens"], state["length"]) != (self.total_tokens, length):
            raise PlanError(
                f"the state was saved with total_tokens={state['total_tokens']} at length "
                f"{state['length']}; here total_tokens={self.total_tokens}, and the length would "
                f"be {length}. Resume with the pacing and total_tokens that the run began with."
            )
        self.tokens, self.tokens_cut = state["tokens"], state["tokens_cut"]

    def _length_at(self, tokens: int) -> int:
        length = int(self.pacing(tokens / self.total_tokens))
        if length < 1:
            raise BudgetError(
                f"LengthWarmUp(pacing={self.pacing!r}) allows a length of {length} after {tokens} "
                "tokens: expected at least 1."
            )
        return length

    def _name_of_lengths(self, fields: Mapping[Any, Field]) -> Name | None:
        if self._lengths is None:
            # A mask first: it says on which side of a row the padding is.
            names = ("attention_mask", "lengths")
            return next((name for name in names if isinstance(fields.get(name), Tensor)), None)
        if not isinstance(fields.get(self._lengths), Tensor):
            raise ColumnNotFoundError(
                f"LengthWarmUp(lengths={self._lengths!r}): the batch has the fields "
                f"{list(fields)}, expected a tensor [rows] or [rows, length] of that name."
            )
        return self._lengths

    def _pads(self, fields: Mapping[Any, Field], lengths: Name | None) -> Mapping[Any, PadValue]:
        cut = [name for name in fields if _is_cut(fields[name]) and name != lengths]
        if self._pad is None and 0 in fields and len(cut) > 1:
            raise BudgetError(
                f"LengthWarmUp cannot know what pads the fields {cut} of a tuple: name it, "
                f"pad=(0, {LABEL_IGNORE}) for inputs and labels."
            )
        given = 0 if self._pad is None else self._pad
        pads = Padding.of(given, list(fields), "LengthWarmUp").values
        return pads if lengths is None or isinstance(given, Mapping) else {**pads, lengths: 0}

    def _pieces(self, real: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
        """Cut rows, from their first token to their last, into equal pieces.

        Returns:
            int64[p], the row of each piece; int64[p, width], its cells; bool[p, width], False at
            padding.
        """
        place = torch.arange(real.shape[1], device=real.device)
        ends = torch.where(real, place + 1, 0).amax(1)
        begins = torch.where(real, place, real.shape[1]).amin(1).minimum(ends)
        if self.truncate:
            ends = ends.minimum(begins + length)
        sizes = ends - begins
        counts = (-(-sizes // length)).clamp(min=1)  # a row without a token stays one
        rows = torch.repeat_interleave(counts)
        which = torch.arange(rows.numel(), device=real.device) - (counts.cumsum(0) - counts)[rows]
        first = which * sizes[rows] // counts[rows]
        after = (which + 1) * sizes[rows] // counts[rows]
        width = max(1, int((after - first).max()))
        width = max(width, min(length, -(-width // self._multiple) * self._multiple))
        steps = torch.arange(width, device=real.device)
        inside = steps < (after - first)[:, None]
        return rows, ((begins[rows] + first)[:, None] + steps).where(inside, 0), inside


def _fields_of(batch: Batch) -> dict[Any, Field]:
    """Return the fields of a batch by name or position; raise unless they are of one shape."""
    fields = None if isinstance(batch, Tensor) else parts_of(batch)
    if fields is None or isinstance(batch, tuple):
        fields = dict(enumerate(batch if isinstance(batch, tuple) else (batch,)))
    first = next((name for name, value in fields.items() if _is_cut(value)), None)
    if first is None:
        raise LengthsError(
            f"a batch of type {type(batch).__name__} has no tensor [rows, length, …] to cut: "
            "expected one, or a dict or tuple of them, as PadCollator makes."
        )
    rows, length = fields[first].shape[:2]
    for name, value in fields.items():
        if isinstance(value, Tensor):
            given = f"{list(value.shape)}"
            fits = list(value.shape[:2]) == [rows, length][: value.ndim]
            fits = fits and (name != "attention_mask" or value.ndim == 2)
        else:
            given = f"a {type(value).__name__}"
            fits = _has_rows(value, rows) and all(each.ndim < 2 for each in tensors_of(value))
        if not fits:
            raise LengthsError(
                f"field {name!r} of the batch is {given} and cannot be cut with {first!r}, {rows} "
                f"rows of {length}. Expected [rows], [rows, length, …] or a list of rows, and an "
                "attention_mask [rows, length]. Leave it out, or cut it after."
            )
    return fields


def _has_rows(value: Field, rows: int) -> bool:
    """Check whether rows of a field that is no tensor can be repeated."""
    try:
        Reading(rows).take({"field": value}, None)
    except UpdateError:
        return False
    return True


def _is_cut(value: Field) -> bool:
    return isinstance(value, Tensor) and value.ndim > 1


def _real(fields: Mapping[Any, Field], lengths: Name | None) -> Tensor:
    """Return where tokens are, bool[rows, length]."""
    first: Tensor = next(value for value in fields.values() if _is_cut(value))
    if lengths is None:
        return torch.ones(first.shape[:2], dtype=torch.bool, device=first.device)
    given: Tensor = fields[lengths]
    if given.ndim == 2:
        return given.bool()
    if given.ndim != 1 or given.is_floating_point():
        raise LengthsError(
            f"field {lengths!r} is {given.dtype}{list(given.shape)}: expected the lengths of rows, "
            "int[rows], or a mask [rows, length]."
        )
    width = first.shape[1]
    if given.numel() and not 0 <= int(given.min()) <= int(given.max()) <= width:
        raise LengthsError(
            f"field {lengths!r} is from {int(given.min())} to {int(given.max())}, but rows have "
            f"{width} cells: expected the tokens of each row."
        )
    return torch.arange(width, device=given.device) < given[:, None]
