"""How much memory a training step takes, before it is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from batchwright._checks import check_positive
from batchwright.batching import TokenBudget
from batchwright.errors import BudgetError
from batchwright.lengths import as_lengths
from batchwright.torch.memory.curves import Curve, height, rows_within
from batchwright.torch.memory.explanation import Explanation, explained
from batchwright.torch.memory.fitting import Findings, find
from batchwright.torch.memory.steps import Autocast, MakeBatch, Task
from batchwright.torch.update.loss_functions import LossSum
from batchwright.typing import FloatArray, IntArray, IntoLengths


@dataclass(frozen=True, eq=False, repr=False)
class RowsByLength:
    """The most rows of a batch, as a function of their padded length: int64[m] → int64[m].

    Where attention keeps its scores, longer rows cost more per token: a budget of tokens that is
    right for long rows is too small for short ones. Raises BudgetError for a length beyond the
    table, in which entry L is for rows of length L.

    Example:
        >>> rows = RowsByLength(np.array([9, 9, 4, 2]))
        >>> rows([3, 1]).tolist(), rows
        ([2, 9], RowsByLength(9 rows of length 1 … 2 of length 3))
    """

    rows: IntArray

    def __call__(self, lengths: npt.ArrayLike) -> IntArray:
        """Return the most rows for each length."""
        asked = as_lengths(lengths)
        longest = self.rows.size - 1
        if int(asked.max()) > longest:
            raise BudgetError(
                f"length {int(asked.max())} is above {longest}, the longest that the memory model "
                "was fitted for. Fit it with such lengths, rounded up if rows are padded to a "
                "multiple."
            )
        most: IntArray = self.rows[asked]
        return most

    def __repr__(self) -> str:
        first, last = int(self.rows[1]), int(self.rows[-1])
        return f"RowsByLength({first} rows of length 1 … {last} of length {self.rows.size - 1})"

    @property
    def max_tokens(self) -> int:
        """The most tokens of a batch at any length, padding included."""
        return int((self.rows * np.arange(self.rows.size)).max())


@dataclass(frozen=True)
class MemoryModel:
    """Predicts the peak memory of a training step from the shape of its batch; suggests budgets.

    Made by `MemoryModel.fit`. The peak is what is held throughout training (the *state*:
    parameters, buffers, optimizer state, and gradients that stay over several batches of an
    update) plus what a step adds: ``a + b·B·L + c·B·L²`` bytes for B rows of length L, the
    highest of a few such curves.

    Guarantees that budgets keep `margin` of a step's bytes free, beyond the largest ratio of
    measured to predicted bytes in confirming steps. Holds neither the model nor a tensor.

    It was fitted for lengths from `shortest` to `longest` up to `limit` bytes on a type of device.
    """

    findings: Findings = field(repr=False)  # state, curves, shapes tried, confirming steps
    _: KW_ONLY
    shortest: int
    longest: int
    limit: int
    margin: float
    device: str

    @classmethod
    def fit(
        cls,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
        loss_sum: LossSum,
        make_batch: MakeBatch,
        *,
        lengths: IntoLengths,
        limit: int,
        autocast: Autocast = None,
        accumulate: int | None = None,
        margin: float = 0.05,
        confirm: bool = True,
        measure: bool = True,
    ) -> Self:
        """Fit a memory model to a training step.

        Runs the step on fake tensors, which have shapes and no memory, at about ten shapes that
        fill the limit; each takes as long as the model's Python code. Two real steps, at half of
        the limit and below all of it, then measure what kernels take for themselves. Where a step
        needs to see values, real steps that grow towards the limit are measured instead. They run
        on the model's own device, and keep a copy of parameters and states on the CPU.

        Model, optimizers and random states stay as they were.

        Args:
            model: The model, on the device that it will be trained on, not wrapped for several
                processes.
            optimizer: Its optimizer, or several.
            loss_sum: ``(model, batch) → the sum of the loss``.
            make_batch: ``(rows, length) → a batch`` of that shape, on the device that the loss
                expects: a tensor, or a dict or tuple of tensors with the rows in dimension 0.
            lengths: integer[n], the lengths of the data. A few of them are tried, from the
                shortest to the longest.
            limit: Bytes that training may take, state included. On a GPU, leave some of the
                device for what the allocator keeps in reserve.
            autocast: What the forward pass runs in: a type for `torch.autocast`, or a function
                that makes a context. None: nothing.
            accumulate: Batches of an update. 1: gradients are freed after each batch. More, or
                None for unknown: they are there from the start.
            margin: Share of a step's bytes to keep free for fragmentation and the fit's error.
            confirm: Run the two real steps.
            measure: Run growing real steps where fake ones fail.

        Raises:
            BudgetError: If the limit leaves no room for one row of the longest length; if batches
                have other shapes than asked for; if the model cannot be copied.
            LengthsError: If there are no lengths.
            LossError: If the loss is not a scalar.

        Example:
            >>> model = torch.nn.Sequential(torch.nn.Embedding(50, 8), torch.nn.Linear(8, 50))
            >>> memory = MemoryModel.fit(
            ...     model,
            ...     torch.optim.AdamW(model.parameters()),
            ...     lambda model, tokens: model(tokens).logsumexp(-1).sum(),
            ...     lambda rows, length: torch.zeros(rows, length, dtype=torch.long),
            ...     lengths=[4, 64],
            ...     limit=2**20,
            ...     confirm=False,
            ... )
            >>> memory.max_batch(64) * 64 <= memory.max_tokens() < 2_000
            True
            >>> memory.explain(16, 64).dominant.name
            'backward pass'
        """
        check_positive("MemoryModel.fit", limit=limit, accumulate=accumulate)
        if not 0.0 <= margin < 1.0:
            raise BudgetError(f"MemoryModel.fit(margin={margin!r}): expected 0 or more, below 1.")
        distinct = np.unique(as_lengths(lengths)).astype(np.int64)
        several = [optimizer] if isinstance(optimizer, torch.optim.Optimizer) else optimizer
        task = Task(model, tuple(several), loss_sum, make_batch, autocast, accumulate != 1)
        memory = cls(
            find(task, distinct, limit, margin=margin, confirm=confirm, measure=measure),
            shortest=int(distinct[0]),
            longest=int(distinct[-1]),
            limit=limit,
            margin=margin,
            device=task.device.type,
        )
        memory.max_batch(memory.longest)  # raises if not even one row fits
        return memory

    @property
    def how(self) -> str:
        """How peaks were found: on ``"fake"`` tensors, or ``"measured"`` in real steps."""
        return "fake" if self.findings.reason is None else "measured"

    @property
    def state_bytes(self) -> int:
        """Bytes held throughout training."""
        return self.findings.state.total

    @property
    def curve(self) -> Curve:
        """The curve that is highest for the longest rows at the limit: ``a``, ``b``, ``c``."""
        rows = max(1.0, float(self._rows(self.limit, self.longest)))
        curves = (each.curve for each in self.findings.moments)
        highest = max(curves, key=lambda curve: curve(rows, self.longest))
        return highest.scaled(self.findings.ratio)

    def peak(self, rows: int, length: int) -> int:
        """Predict the peak of a step of some rows and padded length, in bytes, without the margin.

        Raises:
            BudgetError: If the length is above the longest that was fitted.
        """
        check_positive("peak", rows=rows, length=length)
        self._check_length(length)
        step = self.findings.ratio * float(height(self.findings.moments, rows, length))
        return self.state_bytes + int(np.ceil(step))

    def max_batch(self, length: int, limit: int | None = None) -> int:
        """Return how many rows of a padded length fit, at least 1.

        Args:
            length: The length. One below the shortest that was fitted counts as the shortest.
            limit: Bytes that training may take, state included. None: the fitted limit.

        Raises:
            BudgetError: If not even one row fits, naming what takes the most; if the limit or the
                length is above what was fitted.
        """
        check_positive("max_batch", length=length)
        return int(self._fitting(np.array([length]), limit)[0])

    def rows_by_length(
        self, limit: int | None = None, *, longest: int | None = None
    ) -> RowsByLength:
        """Return how many rows fit for every length up to the longest: `max_batch`, as a table."""
        longest = self.longest if longest is None else longest
        check_positive("rows_by_length", longest=longest)
        rows = self._fitting(np.arange(1, longest + 1), limit)
        return RowsByLength(np.concatenate([rows[:1], rows]))

    def max_tokens(self, limit: int | None = None, *, longest: int | None = None) -> int:
        """Return the largest budget of padded tokens that is safe for rows of every length.

        Args:
            limit: See `max_batch`.
            longest: The longest row there will be. Where attention keeps its scores, shorter rows
                leave room for more tokens. None: the longest that was fitted.

        Raises:
            BudgetError: See `max_batch`; or if no single budget suits all lengths.
        """
        longest = self.longest if longest is None else longest
        check_positive("max_tokens", longest=longest)
        lengths = np.arange(min(self.shortest, longest), longest + 1)
        # A budget T allows T // L rows: raise it until some length would get a row too many.
        budget = int(((self._fitting(lengths, limit) + 1) * lengths).min()) - 1
        if budget < longest:
            raise BudgetError(
                f"no single budget of tokens suits lengths from {lengths[0]} to {longest}: rows of "
                f"the shortest allow {budget:,} tokens. Use token_budget, or max_batch per length."
            )
        return budget

    def token_budget(
        self, limit: int | None = None, *, longest: int | None = None, **options: Any
    ) -> TokenBudget:
        """Return a batching that keeps within the limit, with a budget for every length.

        Short rows may hold more tokens than long ones: it is ``TokenBudget(rows.max_tokens,
        max_samples=rows, **options)`` with ``rows = rows_by_length(limit, longest=longest)``.
        """
        rows = self.rows_by_length(limit, longest=longest)
        return TokenBudget(rows.max_tokens, max_samples=rows, **options)

    def explain(self, rows: int, length: int) -> Explanation:
        """Say what the peak of a step consists of, and what lowers it. Print it to read it."""
        check_positive("explain", rows=rows, length=length)
        self._check_length(length)
        found = self.findings
        return explained(found.moments, found.state, found.ratio, rows, length)

    def _fitting(self, lengths: IntArray, limit: int | None) -> IntArray:
        """Return how many rows of each length fit, at least 1."""
        limit = self.limit if limit is None else limit
        check_positive("limit", limit=limit)
        if limit > self.limit:
            raise BudgetError(
                f"limit={limit:,} is above {self.limit:,}, which this was fitted for. Fit again "
                "with that limit: above it, another moment of the step may be the peak."
            )
        self._check_length(int(lengths.max()))
        rows = self._rows(limit, np.maximum(lengths, self.shortest))
        if rows.min() < 1:
            length = int(lengths[int(rows.argmin())])
            explanation = self.explain(1, length)
            most = explanation.dominant
            cure = "" if most.cure is None else f" To lower it, use {most.cure}."
            raise BudgetError(
                f"limit={limit:,} bytes is below one row of length {length}, which takes "
                f"{explanation.peak:,} and a margin of {self.margin:.0%} of the step. Most of it "
                f"is {most.name} ({most.share:.0%}).{cure}"
            )
        return np.minimum(rows, 2.0**53).astype(np.int64)

    def _rows(self, limit: int, lengths: npt.ArrayLike) -> FloatArray:
        """Return how many whole rows fit beside state and margin."""
        capacity = (limit - self.state_bytes) / ((1 + self.margin) * self.findings.ratio)
        rows: FloatArray = np.floor(rows_within(self.findings.moments, capacity, lengths))
        return rows

    def _check_length(self, length: int) -> None:
        if length > self.longest:
            raise BudgetError(
                f"length {length} is above {self.longest}, the longest that this was fitted for. "
                "Fit again with such lengths."
            )
