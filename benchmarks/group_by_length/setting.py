"""What all arms of a race share."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Setting:
    """What all arms share.

    Attributes:
        data: `functions`: a language model of Python's own library. `glosses`: WordNet's, to be
            classified.
        num_samples: To train on.
        vocabulary: Number of tokens that exist.
        epochs: How often.
        batch_size: Samples of a batch, as Trainer takes them.
        accumulate: Batches of an update, as Trainer takes them.
        learning_rate: The highest of the run.
        seed: Of weights and batches; the data are the same for all seeds.
    """

    data: Literal["functions", "glosses"]
    num_samples: int
    vocabulary: int
    epochs: int
    batch_size: int
    accumulate: int
    learning_rate: float
    seed: int = 0
