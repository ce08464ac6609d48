"""The lengths that everybody plans, as files that every worker reads."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from benchmarks.length_sets import TEXT, LogNormal
from examples.applications.python_functions import functions


@dataclass(frozen=True)
class LengthSet:
    """Lengths, with the budgets that fit them.

    Attributes:
        name: What tables show.
        draw: Returns so many lengths. None: there is one real set, taken whole.
        max_tokens: Budget of a padded batch.
        capacity: Tokens of a packed row.
        sizes: How many are planned; an empty tuple for all there are.
    """

    name: str
    draw: Callable[[int], np.ndarray] | None
    max_tokens: int
    capacity: int
    sizes: tuple[int, ...] = ()

    def budget(self, kind: str) -> int:
        """Return the budget of a kind of batches."""
        return self.max_tokens if kind == "padded" else self.capacity

    def file(self, size: int | None, folder: Path) -> Path:
        """Write the lengths, int64[size], unless they are there."""
        path = folder / f"{self.name}-{size or 'all'}.npy"
        if not path.is_file():
            np.save(path, code_lengths(self.capacity) if self.draw is None else self.draw(size))
        return path


def code_lengths(cap: int) -> np.ndarray:
    """Count the tokens of each function of Python's library, int64[n], cut to a cap.

    The vocabulary, 2,048 byte pairs, is learnt from the same functions.
    """
    texts = functions()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=2_048, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    counts = [len(encoding.ids) for encoding in tokenizer.encode_batch(texts)]
    return np.clip(np.array(counts, dtype=np.int64), 1, cap)


LENGTHS = (
    LengthSet("text2k", TEXT.draw, 16_384, 2_048, (10_000, 100_000, 1_000_000, 10_000_000)),
    LengthSet(
        "text8k",
        LogNormal(mu=6.5, sigma=1.1, cap=8_192).draw,
        32_768,
        8_192,
        (10_000, 100_000, 1_000_000),
    ),
    LengthSet("code2k", None, 16_384, 2_048),
)
