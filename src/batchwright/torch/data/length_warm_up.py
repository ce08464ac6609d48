"""Sequences that get longer: rows are cut into short pieces at first, and lose no token."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from batchwright._checks import check_positive
from batchwright.errors import BudgetError, LengthsError, PlanError, UpdateError
from batchwright.torch.data.rows import Reading
from batchwright.torch.data.samples import LABEL_IGNORE, Name, Padding, PadValue, checked_pads
from batchwright.torch.data.trees import Parts, like, parts_of, tensors_of
from batchwright.typing import Batch, Field, LengthPacing, State

STATE_VERSION = 1
_COUNTS = ("tokens", "total_tokens", "length")


class LengthWarmUp:
    """Cuts the rows of batches to the length that a pacing allows at present.

    A row of n tokens becomes ⌈n ÷ length⌉ rows, equal to within one token, so few cells are
    padding. No token is lost, and each keeps its label. Labels have to be shifted before: a model
    that shifts them itself would lose one at each border.

    Call it on each batch in the training loop, before `windows` or the weight of the update; in a
    worker of a DataLoader it would not see what the others consumed. Progress is the real tokens
    returned so far ÷ `total_tokens`; each rank counts its own, times `world_size`.

    Fields of [rows, length, …] are cut; those of one value a row, and lists with one entry a row,
    are repeated for each piece. Pieces are padded on the right. Which cells are tokens is taken
    from a dict's ``attention_mask`` [rows, length], else from its ``lengths``, int[rows], of rows
    that are padded on the right; without these every cell is one.

    Args:
        pacing: Progress → the longest row allowed: `batchwright.pacing.length_warm_up`.
        total_tokens: Real tokens of the whole run, on all ranks.
        world_size: Ranks, each with a share of the tokens like this one's.
        pad: Padding of pieces, as in `PadCollator`. A tuple of several sequences needs it.
        pad_to_multiple_of: Pieces are padded to a multiple of this, if the length allows.

    Attributes:
        tokens: Real tokens returned so far, on all ranks.

    Raises:
        BudgetError: If a setting is invalid; when called, if a tuple's padding is unknown.
        ColumnNotFoundError: When called, if the batch lacks a field named in `pad`.
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
        pad: PadValue | Mapping[Name, PadValue] | Sequence[PadValue] | None = None,
        pad_to_multiple_of: int = 1,
    ) -> None:
        counts = {"total_tokens": total_tokens, "world_size": world_size}
        check_positive("LengthWarmUp", **counts, pad_to_multiple_of=pad_to_multiple_of)
        self.pacing = pacing
        self.total_tokens = int(total_tokens)
        self.world_size = int(world_size)
        self.tokens = 0
        self._pad = None if pad is None else checked_pads(pad, "LengthWarmUp")
        self._multiple = int(pad_to_multiple_of)

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
        cut = [name for name, value in fields.items() if _is_cut(value)]
        if self._pad is None and 0 in fields and len(cut) > 1:
            raise BudgetError(
                f"LengthWarmUp cannot know what pads the fields {cut} of a tuple: name it, "
                f"pad=(0, {LABEL_IGNORE}) for inputs and labels."
            )
        padding = Padding.of(0 if self._pad is None else self._pad, list(fields), "LengthWarmUp")
        real = _real(fields, fields[cut[0]])
        length = self.length
        self.tokens += int(real.sum()) * self.world_size
        if real.shape[1] <= length or not len(real):
            return batch
        rows, columns, inside = self._pieces(real, length)
        made: Parts = {}
        for name, value in fields.items():
            if name == "lengths" and isinstance(value, Tensor) and value.ndim == 1:
                made[name] = (real[rows[:, None], columns] & inside).sum(1).to(value)
            elif name not in cut:
                made[name] = Reading(len(real)).take({name: value}, rows)[name]
            else:
                pad = padding.values[name]
                pad = False if value.dtype == torch.bool and pad not in {0, 1} else pad
                cells = value[rows.to(value.device)[:, None], columns.to(value.device)]
                outside = ~inside.to(value.device)[(...,) + (None,) * (value.ndim - 2)]
                made[name] = cells.masked_fill_(outside, pad)
        return made[0] if isinstance(batch, Tensor) else like(batch, made)

    def state_dict(self) -> State:
        """Return where the run is, as JSON can keep it: the state of any rank will do."""
        return {"version": STATE_VERSION, **{name: getattr(self, name) for name in _COUNTS}}

    def load_state_dict(self, state: State) -> None:
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
                f"be {length}. Resume with the settings that the run began with."
            )
        self.tokens = state["tokens"]

    def _length_at(self, tokens: int) -> int:
        length = int(self.pacing(tokens / self.total_tokens))
        if length < 1:
            raise BudgetError(
                f"LengthWarmUp(pacing={self.pacing!r}) allows a length of {length} after {tokens} "
                "tokens: expected at least 1."
            )
        return length

    def _pieces(self, real: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
        """Cut rows, from their first token to their last, into equal pieces.

        Returns:
            int64[p], the row of each piece; int64[p, width], its cells; bool[p, width], False at
            padding.
        """
        place = torch.arange(real.shape[1], device=real.device)
        ends = torch.where(real, place + 1, 0).amax(1)
        begins = torch.where(real, place, real.shape[1]).amin(1).minimum(ends)
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


def _is_cut(value: Field) -> bool:
    return isinstance(value, Tensor) and value.ndim > 1


def _fields_of(batch: Batch) -> Parts:
    """Return the fields of a batch by name or position; raise unless they are of one shape."""
    if isinstance(batch, tuple | Tensor):
        fields: Parts = dict(enumerate(batch if isinstance(batch, tuple) else (batch,)))
    else:
        fields = parts_of(batch) or {}
    first = next((name for name, value in fields.items() if _is_cut(value)), None)
    if first is None:
        raise LengthsError(
            f"a batch of type {type(batch).__name__} has no tensor [rows, length, …]: expected "
            "one, or a dict or tuple of them."
        )
    rows, length = fields[first].shape[:2]
    for name, value in fields.items():
        given = f"a {type(value).__name__}"
        if isinstance(value, Tensor):
            given = f"{list(value.shape)}"
            fits = list(value.shape[:2]) == [rows, length][: value.ndim]
            fits = fits and (name != "attention_mask" or value.ndim == 2)
        elif fits := all(each.ndim < 2 for each in tensors_of(value)):
            try:
                Reading(rows).take({"field": value}, None)
            except UpdateError:
                fits = False
        if not fits:
            raise LengthsError(
                f"field {name!r} of the batch is {given} and cannot be cut with {first!r}, {rows} "
                f"rows of {length}: expected [rows], [rows, length, …] (an attention_mask: "
                "[rows, length]), or a list of rows."
            )
    return fields


def _real(fields: Parts, first: Tensor) -> Tensor:
    """Return where tokens are, bool[rows, length], as a mask or else lengths say."""
    mask, lengths = fields.get("attention_mask"), fields.get("lengths")
    if isinstance(mask, Tensor):
        return mask.bool()
    width = first.shape[1]
    if not isinstance(lengths, Tensor):
        return torch.ones(first.shape[:2], dtype=torch.bool, device=first.device)
    if lengths.ndim != 1 or lengths.is_floating_point():
        raise LengthsError(
            f"field 'lengths' is {lengths.dtype}{list(lengths.shape)}: expected int[rows], the "
            "tokens of each row."
        )
    if lengths.numel() and not 0 <= int(lengths.min()) <= int(lengths.max()) <= width:
        raise LengthsError(
            f"field 'lengths' is from {int(lengths.min())} to {int(lengths.max())}, but rows have "
            f"{width} cells: expected the tokens of each row."
        )
    return torch.arange(width, device=lengths.device) < lengths[:, None]
