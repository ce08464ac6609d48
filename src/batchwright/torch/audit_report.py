"""What an audit saw, layer by layer, and what follows from it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batchwright.torch.audit_advice import advise, exceptions, layers_in, suiting
from batchwright.torch.audit_exponents import Exponents
from batchwright.torch.audit_table import as_text, audit_table

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class LostUpdates:
    """How many elements of parameters an update leaves as they are, since it is too small.

    A change of less than half the distance to the next number is rounded off.

    Attributes:
        due: Elements that were to move: with a gradient or a change.
        lost: Of these, the ones that did not, in the type that they are kept in.
        lost_in: Format → those that would not have moved, were they kept in it.
    """

    due: int = 0
    lost: int = 0
    lost_in: Mapping[str, int] = field(default_factory=dict)

    def share(self, kept: str | None = None) -> float:
        """Return the share that was lost; or would have been, in another format.

        Example:
            >>> updates = LostUpdates(due=8, lost=0, lost_in={"bf16": 6})
            >>> updates.share(), updates.share("bf16")
            (0.0, 0.75)
        """
        lost = self.lost if kept is None else self.lost_in.get(kept, self.lost)
        return lost / max(self.due, 1)

    def __add__(self, other: "LostUpdates") -> "LostUpdates":
        """Add another update's."""
        names = {**self.lost_in, **other.lost_in}
        both = {name: self.lost_in.get(name, 0) + other.lost_in.get(name, 0) for name in names}
        return LostUpdates(self.due + other.due, self.lost + other.lost, both)


@dataclass(frozen=True)
class LayerAudit:
    """One layer: a module without children, or with parameters of its own.

    Attributes:
        name: As in `named_modules`.
        kind: The module's class.
        activations_in: The format its output is in. None: no output was seen.
        parameters_in: The format its parameters are in. None: it has none.
        activations: Its output.
        gradients: The gradient of the loss by its output, the loss scale taken out.
        parameter_gradients: The gradient by its parameters, likewise: a sum over rows, and larger.
        updates: By what its parameters changed.
        lost: What was lost of these changes.
    """

    name: str
    kind: str
    activations_in: str | None = None
    parameters_in: str | None = None
    activations: Exponents = field(default_factory=Exponents)
    gradients: Exponents = field(default_factory=Exponents)
    parameter_gradients: Exponents = field(default_factory=Exponents)
    updates: Exponents = field(default_factory=Exponents)
    lost: LostUpdates = field(default_factory=LostUpdates)


@dataclass(frozen=True)
class AuditReport:
    """What an audit saw. Printed, it is a table; `dataclasses.asdict` makes JSON of it.

    Attributes:
        layers: In the sequence of their first call; last, those that were never called.
        updates: Updates that were looked at.
        passed: Updates that went by.
        loss_scale: The last loss scale.
    """

    layers: tuple[LayerAudit, ...]
    updates: int = 0
    passed: int = 0
    loss_scale: float = 1.0

    @property
    def mode(self) -> str:
        """The precision that was in use: ``"fp32"``, ``"bf16"``, ``"fp16"``, ``"bf16-true"``."""
        parameters = {layer.parameters_in for layer in self.layers}
        activations = {layer.activations_in for layer in self.layers}
        for half in ("fp16", "bf16"):
            if half in parameters:
                return f"{half}-true"
            if half in activations:
                return half
        return "fp32"

    @property
    def suiting_scales(self) -> tuple[float, float]:
        """The least and the largest loss scale that suits half floats; NaN if there is none."""
        powers = suiting(layers_in(self, "fp16"))
        return (2.0 ** powers[0], 2.0 ** powers[-1]) if powers else (math.nan, math.nan)

    def advice(self, mode: str | None = None) -> list[str]:
        """Say what to do.

        Args:
            mode: A mode of `Precision`, to see before the switch what it would lose. None: the one
                in use; in fp32, what ``"fp16"`` would lose.

        Returns:
            Sentences. Empty: nothing speaks against it.
        """
        return advise(self, mode)

    def keep_in_fp32(self, mode: str | None = None) -> tuple[str, ...]:
        """Name the few layers that are better left out of autocasting.

        Args:
            mode: See `advice`.

        Returns:
            Names. Empty: there are none; or so many that ``"bf16"`` is the better choice.
        """
        return exceptions(self, mode)

    def table(self, mode: str | None = None) -> "Table":
        """Lay the figures out for a terminal. Needs rich.

        Args:
            mode: See `advice`.

        Returns:
            What rich prints.
        """
        return audit_table(self, mode)

    def __rich__(self) -> "Table":
        """Return what rich prints."""
        return self.table()

    def __str__(self) -> str:
        """Return the table and the advice as text."""
        return as_text(self)
