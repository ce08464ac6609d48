"""From easy samples to hard ones."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cached_property, partial
from typing import Literal, cast

import numpy as np
import numpy.typing as npt

from batchwright._checks import MOST_EPOCHS, check_choice, keep_whole, takes
from batchwright._random import generator, ranked, shuffled
from batchwright.errors import PlanError
from batchwright.order.cells import Cells
from batchwright.order.draws import DrawnOrder, Draws, probes_until
from batchwright.order.pools import Kept
from batchwright.order.scores import as_scores, keep_positive, refuse_other_data
from batchwright.pacing import root
from batchwright.typing import FloatArray, IntArray, Pacing, Sorted

_MOST_STRATA = 1024
_MOST_PROBES = 64


@dataclass(frozen=True, eq=False)
class Curriculum(DrawnOrder):
    """Draw from the easiest samples first, and admit harder ones as training goes on.

    At progress u, the easiest ``pacing(u)`` of all samples are *eligible*, and each of them is
    drawn equally often. After `epochs`, every epoch is a plain shuffle of all.

    Guarantees epochs of equal size, in tokens or samples. Samples that were admitted together are
    drawn in passes, none twice before each was drawn once, and their count is less than a sample
    off its target at the end of each part.

    Args:
        difficulty: float[n], any scale: only the ranks count. Ties are broken at random.
        pacing: Share of the samples that is eligible; see `batchwright.pacing`. None: the square
            root of Platanios et al.
        epochs: Epochs until progress is 1. A third to a half of the run is a common choice.
        parts: Into which an epoch is cut: samples are rearranged only inside a part. More follow
            the pacing more closely, fewer pad less.
        direction: ``"easy"`` samples first, or ``"hard"`` ones (the anti-curriculum).
        unit: What progress and epochs are measured in.
        band: The ranks, from 0 to 1, that are ever drawn: ``(0, 0.8)`` leaves out the hardest
            fifth.

    Raises:
        LengthsError: If a difficulty is NaN or infinite.
        PlanError: If a setting is out of range.

    Example:
        >>> from batchwright import pacing
        >>> order = Curriculum([0.1, 0.9, 0.2, 0.8], pacing=pacing.constant(share=0.5), epochs=1,
        ...                    parts=1)
        >>> sorted(order(np.array([5, 5, 5, 5]), seed=0, epoch=0).members.tolist())
        [0, 0, 2, 2]
        >>> sorted(order(np.array([5, 5, 5, 5]), seed=0, epoch=1).members.tolist())
        [0, 1, 2, 3]

    Source: Y. Bengio et al., *Curriculum Learning*, 2009; E. A. Platanios et al.,
    *Competence-based Curriculum Learning for Neural Machine Translation*, 2019, arXiv:1903.09848.
    """

    difficulty: npt.ArrayLike = field(repr=False)
    _: KW_ONLY
    pacing: Pacing | None = None
    epochs: float = 4.0
    parts: int = 4
    direction: Literal["easy", "hard"] = "easy"
    unit: Literal["tokens", "samples"] = "tokens"
    band: tuple[float, float] = (0.0, 1.0)
    _kept: Kept = field(default_factory=lambda: Kept(1), init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "difficulty", as_scores(self.difficulty, name="difficulty"))
        try:
            low, high = (float(rank) for rank in self.band)
        except (TypeError, ValueError):
            low = high = float("nan")
        if not 0 <= low < high <= 1:
            raise PlanError(
                f"Curriculum(band={self.band!r:.60}): expected (low, high) within 0 to 1."
            )
        object.__setattr__(self, "band", (low, high))
        keep_positive(self, "epochs", most=MOST_EPOCHS)
        keep_whole(self, "parts", error=PlanError)
        check_choice("Curriculum", "direction", self.direction, ("easy", "hard"), PlanError)
        check_choice("Curriculum", "unit", self.unit, ("tokens", "samples"), PlanError)
        pacing = self.pacing
        is_function = callable(pacing) and not isinstance(pacing, type) and takes(pacing, 0.0)
        if pacing is not None and not is_function:
            raise PlanError(
                f"Curriculum(pacing={pacing!r:.60}): expected a pacing such as "
                "pacing.root(p=2), or a function of progress."
            )

    varies = False

    @property
    def probes(self) -> IntArray:
        """The epochs to count: all until progress is 1."""
        return probes_until(int(np.ceil(self.epochs)), _MOST_PROBES)

    def control(self, seed: int = 0) -> Curriculum:
        """Return the same pacing over samples in random order: the control.

        What it gains over a plain shuffle is due to the growing set, not to difficulty.
        """
        everyone = np.arange(self._scores.size)
        return replace(self, difficulty=shuffled(everyone, generator(seed, "control")))

    def eligible(self, progress: npt.ArrayLike) -> IntArray:
        """Return how many samples are eligible at some progress, int64[m]."""
        pacing = root() if self.pacing is None else self.pacing
        paced = pacing(np.minimum(np.asarray(progress, dtype=np.float64), 1.0))
        try:
            shares = np.asarray(paced, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise PlanError(f"the pacing {self.pacing} gives no shares ({error}).") from error
        if not ((shares > 0) & (shares <= 1)).all():
            raise PlanError(
                f"the pacing {self.pacing} gives shares from {shares.min()} to {shares.max()}, "
                "expected above 0, at most 1."
            )
        # Rounded, so that the last bit of a power does not admit one sample more elsewhere.
        return np.maximum(np.ceil(np.round(shares * self._ranked.size, 6)), 1).astype(np.int64)

    def draws_of(self, samples: Sorted, num_samples: int) -> Draws:
        """Return the draws from sorted samples."""
        refuse_other_data(self._scores.size, num_samples, name="difficulty")
        size, steps = self._ranked.size, int(np.ceil(self.epochs)) * self.parts
        # Cohorts: samples that become eligible together are a stratum.
        progress = np.unique(np.linspace(0, steps, min(steps, _MOST_STRATA) + 1).astype(int))
        reached = self.eligible((progress[:-1] + 0.5) / self.parts / self.epochs)
        ends = np.unique([*reached, size])
        strata = np.full(self._scores.size, ends.size)
        strata[self._ranked] = np.repeat(np.arange(ends.size), np.diff(ends, prepend=0))
        cells = Cells.of(samples, strata, ends.size, shuffle=True)
        in_tokens = self.unit == "tokens"
        sizes = cells.mean_lengths if in_tokens else np.ones(len(cells))
        return Draws(
            cells,
            partial(self._admitted, ends, cells.members_of.astype(np.float64)),
            horizon=self.epochs,
            size=float((sizes * cells.members_of).sum()),
            sizes=sizes,
            parts=self.parts,
            until=self.epochs,
        )

    def _admitted(self, ends: IntArray, members: FloatArray, progress: float) -> FloatArray:
        """Return the members of the cohorts that are eligible, and 0 for the others."""
        admitted = ends <= int(self.eligible(progress))
        admitted[0] = True
        return np.where(admitted, members, 0.0)

    @property
    def _scores(self) -> FloatArray:
        return cast("FloatArray", self.difficulty)

    @cached_property
    def _ranked(self) -> IntArray:
        """The samples that are ever drawn, in the sequence in which they are admitted."""
        scores = self._scores if self.direction == "easy" else -self._scores
        everyone = ranked(scores, generator(0, "ties"))
        low, high = (round(share * scores.size) for share in self.band)
        return everyone[low : max(high, low + 1)]
