"""How much memory a training step takes, before it is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from batchwright.batching import TokenBudget
from batchwright.checks import check_positive
from batchwright.errors import BudgetError
from batchwright.lengths import as_lengths
from batchwright.torch.memory.curve import Curve
from batchwright.torch.memory.envelope import Moment, height, rows_within
from batchwright.torch.memory.explanation import Explanation, explained
from batchwright.torch.memory.fitting import Findings, Scope, find
from batchwright.torch.memory.rows_by_length import RowsByLength
from batchwright.torch.memory.task import Autocast, MakeBatch, Task
from batchwright.torch.update.loss_functions import LossSum
from batchwright.typing import FloatArray, IntArray, IntoLengths


@dataclass(frozen=True)
class MemoryModel:
    """Tells the peak memory of a training step from the shape of its batch, and budgets from that.

    Made by `MemoryModel.fit`. The peak is what is there throughout training (the *state*:
    parameters, buffers, optimizer state, and gradients if they stay over several batches of an
    update) and what a step adds to it: ``a + b·B·L + c·B·L²`` bytes for B rows of length L, the
    highest of a few such curves.

    Guarantees that budgets keep `margin` free of what a step adds, over the largest ratio that
    confirming steps showed. A plain value: it holds neither the model nor a tensor.

    Attributes:
        findings: The evidence: state, curves, the shapes that were tried, confirming steps.
        shortest: The shortest length that it was fitted for.
        longest: The longest.
        limit: Bytes up to which it was fitted.
        margin: Share of a step's bytes that budgets keep free.
        device: Type of the device that it holds for.
    """

    findings: Findings = field(repr=False)
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

        The step is run on fake tensors, which have shapes and no memory, at about ten shapes that
        fill the limit; two real steps at half of it and below it then say how much more kernels
        take for themselves. Where a step wants to see values, real steps that grow towards the
        limit are measured instead.

        Leaves model, optimizers and random states as they were. The real steps need room for
        the values of parameters and states on the processor, and run on the model's own device.

        Args:
            model: The model, on the device that it will be trained on, not wrapped for several
                processes.
            optimizer: The optimizer of its parameters, or several.
            loss_sum: ``(model, batch) → the sum of the loss``.
            make_batch: ``(rows, length) → a batch`` of that shape, on the device that the loss
                expects: a tensor, or a dict or tuple of tensors with the rows in dimension 0.
            lengths: integer[n], the lengths of the data. A few of them are tried, from the
                shortest to the longest.
            limit: Bytes that training may take, state included. On a GPU, of what the allocator
                gives out: leave it some of the device for what it keeps in reserve.
            autocast: What the forward pass runs in: a type for `torch.autocast`, or a function
                that makes a context. None: nothing.
            accumulate: Batches of an update. 1: gradients come and go with the batch. More, or
                None for unknown: they are there from the start.
            margin: Share of a step's bytes to keep free: for fragmentation, and the fit's error.
            confirm: Run the two real steps.
            measure: Run real steps that grow towards the limit where fake ones cannot be run.

        Returns:
            The memory model. About ten fake steps, each as long as the model's Python code takes,
            whatever the shape.

        Raises:
            BudgetError: If the limit leaves no room for one row of the longest length; if batches
                have other shapes than asked for; if the model cannot be copied.
            LengthsError: If the lengths are none.
            LossError: If the loss is no scalar.

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
        scope = Scope(np.unique(as_lengths(lengths)).astype(np.int64), limit, margin)
        optimizers = (
            (optimizer,) if isinstance(optimizer, torch.optim.Optimizer) else tuple(optimizer)
        )
        task = Task(model, optimizers, loss_sum, make_batch, autocast, accumulate != 1)
        memory = cls(
            find(task, scope, confirm=confirm, measure=measure),
            shortest=scope.shortest,
            longest=scope.longest,
            limit=limit,
            margin=margin,
            device=task.device.type,
        )
        memory.max_batch(memory.longest)  # refuses a limit below one row
        return memory

    @property
    def how(self) -> str:
        """How peaks were found: ``"fake"`` tensors, or ``"measured"`` steps."""
        return "fake" if self.findings.reason is None else "measured"

    @property
    def state_bytes(self) -> int:
        """Bytes that are there throughout training."""
        return self.findings.state.total

    @property
    def curve(self) -> Curve:
        """The curve that is the highest for the longest rows at the limit: ``a``, ``b``, ``c``."""
        rows = max(1.0, float(self._rows(self.limit, self.longest)))
        return max(
            (each.curve for each in self._moments), key=lambda curve: curve(rows, self.longest)
        ).scaled(self.findings.ratio)

    def peak(self, rows: int, length: int) -> int:
        """Predict the peak of a training step.

        Args:
            rows: Rows of the batch.
            length: Length of the longest, to which all are padded.

        Returns:
            Bytes, state included, margin not.

        Raises:
            BudgetError: If the length is above the longest that was fitted.
        """
        check_positive("peak", rows=rows, length=length)
        self._refuse_longer(length)
        step = self.findings.ratio * float(height(self._moments, rows, length))
        return self.state_bytes + int(np.ceil(step))

    def max_batch(self, length: int, limit: int | None = None) -> int:
        """Return how many rows of a length fit.

        Args:
            length: Length of the longest row, to which all are padded. Those below the shortest
                that was fitted count as that.
            limit: Bytes that training may take, state included. None: what was fitted.

        Returns:
            The rows, at least 1.

        Raises:
            BudgetError: If not even one row fits, naming what takes the most; if the limit or the
                length is above what was fitted.
        """
        check_positive("max_batch", length=length)
        return int(self._fitting(np.array([length]), limit)[0])

    def rows_by_length(
        self, limit: int | None = None, *, longest: int | None = None
    ) -> RowsByLength:
        """Return how many rows fit for every length: `max_batch`, as a table.

        Args:
            limit: Bytes that training may take, state included. None: what was fitted.
            longest: The longest row there will be. None: the longest that was fitted.

        Returns:
            A function from lengths to rows. O(longest).

        Raises:
            BudgetError: As `max_batch`.
        """
        longest = self.longest if longest is None else longest
        check_positive("rows_by_length", longest=longest)
        rows = self._fitting(np.arange(1, longest + 1), limit)
        return RowsByLength(np.concatenate([rows[:1], rows]))

    def max_tokens(self, limit: int | None = None, *, longest: int | None = None) -> int:
        """Return the padded tokens that fit into a batch, whatever the length of its rows.

        Args:
            limit: Bytes that training may take, state included. None: what was fitted.
            longest: The longest row there will be; where attention keeps its scores, shorter rows
                leave room for more tokens. None: the longest that was fitted.

        Returns:
            The largest budget that is safe for every length from the shortest to the longest:
            ``TokenBudget(memory.max_tokens(limit))``. O(longest).

        Raises:
            BudgetError: As `max_batch`; or if no single budget serves all lengths.
        """
        longest = self.longest if longest is None else longest
        check_positive("max_tokens", longest=longest)
        lengths = np.arange(min(self.shortest, longest), longest + 1)
        # A budget T allows T // L rows: all lengths agree up to the next row of one of them.
        budget = int(((self._fitting(lengths, limit) + 1) * lengths).min()) - 1
        if budget < longest:
            raise BudgetError(
                f"no one budget of tokens serves lengths from {lengths[0]} to {longest}: rows of "
                f"the shortest allow {budget:,} tokens. Ask max_batch for each length."
            )
        return budget

    def token_budget(
        self, limit: int | None = None, *, longest: int | None = None, **options: Any
    ) -> TokenBudget:
        """Return the batching that keeps within the limit.

        Args:
            limit: Bytes that training may take, state included. None: what was fitted.
            longest: The longest row there will be. None: the longest that was fitted.
            **options: Of `TokenBudget`.

        Returns:
            ``TokenBudget(rows.max_tokens, max_samples=rows, **options)`` with ``rows =
            rows_by_length(limit, longest=longest)``: every length has a budget of its own, so
            that short rows may hold more tokens than long ones.

        Raises:
            BudgetError: As `max_batch`.
        """
        rows = self.rows_by_length(limit, longest=longest)
        return TokenBudget(rows.max_tokens, max_samples=rows, **options)

    def explain(self, rows: int, length: int) -> Explanation:
        """Say what the peak of a step is made of, and what makes it lower.

        Args:
            rows: Rows of the batch.
            length: Length of the longest.

        Returns:
            The parts with their shares, the largest tensors, and cures; ``str()`` lays them out.

        Raises:
            BudgetError: If the length is above the longest that was fitted.
        """
        check_positive("explain", rows=rows, length=length)
        self._refuse_longer(length)
        found = self.findings
        return explained(found.moments, found.state, found.ratio, rows, length)

    @property
    def _moments(self) -> tuple[Moment, ...]:
        return self.findings.moments

    def _fitting(self, lengths: IntArray, limit: int | None) -> IntArray:
        """Return how many rows of each length fit, at least 1."""
        limit = self._checked(limit)
        self._refuse_longer(int(lengths.max()))
        rows = self._rows(limit, np.maximum(lengths, self.shortest))
        if rows.min() < 1:
            length = int(lengths[int(rows.argmin())])
            explanation = self.explain(1, length)
            most = explanation.dominant
            cure = "" if most.cure is None else f" Less of it: {most.cure}."
            raise BudgetError(
                f"limit={limit:,} bytes is below one row of length {length}, which takes "
                f"{explanation.peak:,} and a margin of {self.margin:.0%} of the step. Most of it "
                f"is {most.name} ({most.share:.0%}).{cure}"
            )
        return np.minimum(rows, 2.0**53).astype(np.int64)

    def _rows(self, limit: int, lengths: npt.ArrayLike) -> FloatArray:
        """Return whole rows, so that state, step and margin fit."""
        capacity = (limit - self.state_bytes) / ((1 + self.margin) * self.findings.ratio)
        rows: FloatArray = np.floor(rows_within(self._moments, capacity, lengths))
        return rows

    def _checked(self, limit: int | None) -> int:
        if limit is None:
            return self.limit
        check_positive("limit", limit=limit)
        if limit > self.limit:
            raise BudgetError(
                f"limit={limit:,} is above {self.limit:,}, up to which this was fitted. Fit again "
                "with that limit: beyond it the peak may come elsewhere in the step."
            )
        return limit

    def _refuse_longer(self, length: int) -> None:
        if length > self.longest:
            raise BudgetError(
                f"length {length} is above {self.longest}, up to which this was fitted. Fit again "
                "with such lengths."
            )
