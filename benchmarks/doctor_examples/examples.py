"""The scripts, and the commands that their users type."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

SCRIPTS = Path(__file__).with_name("scripts")


@dataclass(frozen=True)
class Example:
    """A training script as people write it who begin from an example of a library."""

    name: str  # of the script
    library: str
    about: str
    model: str  # folder of the data
    texts: str  # name of the data
    options: Mapping[str, str] = field(default_factory=dict)  # as on the command line
    model_option: str = "--model_name_or_path"

    def command(self, data: Path, output: Path) -> list[str]:
        """Return the words of its command.

        Args:
            data: As `benchmarks.doctor_examples.data` writes it.
            output: A folder for what the script writes.
        """
        words = {
            self.model_option: str(data / self.model),
            "--train_file": str(data / f"{self.texts}.train.json"),
            "--validation_file": str(data / f"{self.texts}.validation.json"),
            **self.options,
        }
        if self.name != "nlp_example":
            words["--output_dir"] = str(output)
        options = [part for pair in words.items() for part in pair if part]
        return [sys.executable, str(SCRIPTS / f"{self.name}.py"), *options]


_TRAINER = {"--do_train": "", "--do_eval": "", "--num_train_epochs": "2", "--seed": "42"}

EXAMPLES = (
    Example(
        "run_classification",
        "transformers",
        "BERT classifies glosses: Trainer, all samples padded to 128 tokens",
        "bert",
        "glosses",
        {
            **_TRAINER,
            "--max_seq_length": "128",
            "--per_device_train_batch_size": "32",
            "--learning_rate": "5e-4",
        },
    ),
    Example(
        "run_language_model",
        "transformers",
        "GPT-2 on functions of Python, joined and cut into blocks of 256 tokens: Trainer",
        "gpt2",
        "functions",
        {
            **_TRAINER,
            "--block_size": "256",
            "--per_device_train_batch_size": "8",
            "--learning_rate": "1e-3",
        },
    ),
    Example(
        "run_translation",
        "transformers",
        "T5 translates help pages: Seq2SeqTrainer, 4 batches of 8 accumulated",
        "t5",
        "pairs",
        {
            **_TRAINER,
            "--source_lang": "en",
            "--target_lang": "de",
            "--source_prefix": "translate English to German: ",
            "--per_device_train_batch_size": "8",
            "--gradient_accumulation_steps": "4",
            "--learning_rate": "1e-3",
            "--predict_with_generate": "",
            "--max_eval_samples": "32",
        },
    ),
    Example(
        "nlp_example",
        "accelerate",
        "BERT tells whether a definition is a word's: batches of 16, warm-up, evaluation",
        "bert",
        "words",
    ),
    Example(
        "complete_nlp_example",
        "accelerate",
        "the same with 4 batches of 16 accumulated, and a checkpoint after each epoch",
        "bert",
        "words",
        {"--checkpointing_steps": "epoch"},
    ),
    Example(
        "transformer",
        "lightning",
        "a Transformer writes articles of a dictionary: 4 batches of 8 accumulated",
        "bert",
        "articles",
        model_option="--tokenizer",
    ),
)
