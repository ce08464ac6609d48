"""What each page takes for granted: its reader's data, model and files, small and real.

A page with code is prepared by the function that `PREPARED` names for it. It gets the folder that
the page's commands run in, and returns the names that the page's Python blocks begin with.
"""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from tests.docs.blocks import ROOT
from tests.docs.commands import run

Names = dict[str, Any]

LENGTHS = np.random.default_rng(0).lognormal(3, 0.8, 300).clip(1, 200).astype(int)


def nothing(folder: Path) -> Names:
    """The page brings everything itself."""
    return {}


def a_file_of_lengths(folder: Path) -> Names:
    np.save(folder / "lengths.npy", _many_lengths())
    return {"lengths": _many_lengths()}


def a_training_script(folder: Path) -> Names:
    """A script that trains on texts of all lengths, on one rank or several, and saves its state."""
    script = ROOT / "tests" / "docs" / "scripts" / "train.py"
    shutil.copy(script, folder / "train.py")
    return {}


def tokens_at_rest(folder: Path) -> Names:
    """Tokens in flat files, a manifest of speech, and texts in shards."""
    import json

    from tests.sources.corpora import write_corpus
    from tests.sources.token_files import write_megatron

    write_corpus(folder / "texts", [300] * 4)
    lists = [[number % 500] * int(length) for number, length in enumerate(LENGTHS)]
    write_megatron(folder / "corpus.idx", lists)
    np.concatenate(lists).astype(np.uint16).tofile(folder / "tokens.bin")
    np.save(folder / "offsets.npy", np.append(0, np.cumsum(LENGTHS)))
    lines = [{"audio_filepath": "a.wav", "duration": float(each) / 10} for each in LENGTHS]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "manifest.json").write_text(text, encoding="utf-8")
    return {}


def a_task(folder: Path) -> Names:
    """A file of lengths, and the job that `batchwright new-task` writes, made smaller."""
    run(["batchwright", "new-task", "mine.py"], folder)
    make_smaller(folder / "mine.py")
    return a_file_of_lengths(folder)


def texts_of_all_sorts(folder: Path) -> Names:
    """A task, and files of texts with labels and languages."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    random = np.random.default_rng(0)
    words = np.array([f"word{number}" for number in range(200)])
    stars = random.integers(1, 3, 600)
    texts = [
        " ".join(random.choice(words[:100] if star == 1 else words[100:], 1 + size % 30))
        for star, size in zip(stars, random.integers(0, 1_000, 600), strict=True)
    ]
    languages = random.choice(["de", "en"], 600, p=[0.1, 0.9])
    parquet.write_table(pa.table({"text": texts, "label": stars}), folder / "corpus.parquet")
    reviews = pa.table({"review": texts, "stars": stars, "language": languages})
    csv.write_csv(reviews, folder / "reviews.csv")
    return a_task(folder)


def make_smaller(task: Path) -> None:
    """Leave a hundred samples of the job that `batchwright new-task` writes."""
    text = task.read_text(encoding="utf-8")
    for before, after in {
        "permutation(len(texts))": "permutation(len(texts))[:140]",
        "samples[:200], samples[200:]": "samples[:40], samples[40:]",
        "batch_size=32": "batch_size=16",
        "epochs=1 if quick else 3": "epochs=1",
    }.items():
        assert before in text
        text = text.replace(before, after)
    task.write_text(text, encoding="utf-8")


def a_language_model(folder: Path) -> Names:
    """Lengths, tokens that are their own labels, a model of them and its optimizer."""
    import torch

    torch.manual_seed(0)
    names = a_task(folder)
    lengths = np.tile(LENGTHS, 3)
    model = torch.nn.Sequential(torch.nn.Embedding(32, 8), torch.nn.Linear(8, 32))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def loss_sum(model: Any, batch: Any) -> Any:
        scores = model(batch["tokens"]).transpose(1, 2)
        return torch.nn.functional.cross_entropy(scores, batch["labels"], reduction="sum")

    return names | {
        "lengths": lengths,
        "dataset": _samples(lengths),
        "model": model,
        "optimizer": optimizer,
        "loss_sum": loss_sum,
        "scheduler": torch.optim.lr_scheduler.ConstantLR(optimizer),
    }


def a_language_model_and_a_trainer(folder: Path) -> Names:
    from transformers import Trainer, TrainingArguments

    from batchwright.torch import PadCollator

    names = a_transformer(folder)
    trainer = Trainer(
        names["model"],
        TrainingArguments(output_dir=str(folder / "trained"), max_steps=2, report_to="none"),
        train_dataset=names["dataset"],
        data_collator=PadCollator(attention_mask=True),
    )
    a_training_script(folder)
    return {"trainer": trainer} | a_language_model(folder)


def a_transformer(folder: Path) -> Names:
    """A language model of transformers, with random parameters, and samples for it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=256,
    )
    samples = [
        {"input_ids": each["tokens"], "labels": each["labels"]} for each in _samples(LENGTHS[:80])
    ]
    return {"lengths": LENGTHS[:80], "dataset": samples, "model": LlamaForCausalLM(settings)}


def a_language_model_with_a_logger(folder: Path) -> Names:
    """A language model; TensorBoard writes files itself, without the seconds TensorFlow takes."""
    name = "tensorboard.compat.notf"
    sys.modules.setdefault(name, ModuleType(name))
    return a_language_model(folder)


def samples_of_torch(folder: Path) -> Names:
    return {"lengths": LENGTHS[:80], "dataset": _samples(LENGTHS[:80])}


def samples_of_numpy(folder: Path) -> Names:
    return {"lengths": LENGTHS, "samples": [each["tokens"].numpy() for each in _samples(LENGTHS)]}


def labelled_points(folder: Path) -> Names:
    """Two kinds of points, some with the label of the other."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 400)
    features = random.normal(size=(400, 5)) + 2 * labels[:, None]
    is_wrong = random.random(400) < 0.2
    return {"features": features, "labels": np.where(is_wrong, 1 - labels, labels)}


def _many_lengths() -> Any:
    return np.random.default_rng(0).lognormal(5.5, 0.9, 2_000).clip(1, 2_048).astype(int)


def _samples(lengths: Any) -> list[dict[str, Any]]:
    import torch

    generator = torch.Generator().manual_seed(0)
    tokens = [torch.randint(1, 32, (int(n),), generator=generator) for n in lengths]
    return [{"tokens": each, "labels": each} for each in tokens]


PREPARED: dict[str, Callable[[Path], Names]] = {
    "README.md": a_language_model_and_a_trainer,
    "docs/index.md": a_file_of_lengths,
    "docs/scale.md": tokens_at_rest,
    "docs/constraints.md": nothing,
    "docs/start.md": nothing,
    "docs/doctor.md": a_training_script,
    "docs/picture.md": nothing,
    "docs/guide.md": labelled_points,
    "docs/advise.md": texts_of_all_sorts,
    "docs/compare.md": nothing,
    "docs/mixing.md": a_file_of_lengths,
    "docs/live_losses.md": nothing,
    "docs/traps.md": a_task,
    "docs/results.md": nothing,
    "docs/frameworks/torch.md": a_language_model,
    "docs/frameworks/transformers.md": a_transformer,
    "docs/frameworks/accelerate.md": nothing,
    "docs/frameworks/lightning.md": nothing,
    "docs/frameworks/monitoring.md": a_language_model_with_a_logger,
    "docs/frameworks/keras.md": samples_of_numpy,
    "docs/frameworks/compiled.md": samples_of_numpy,
    "docs/frameworks/grain.md": samples_of_numpy,
    "docs/frameworks/nodes.md": samples_of_torch,
    "docs/frameworks/ray.md": nothing,
    "docs/frameworks/streams.md": nothing,
    **{
        f"docs/applications/{name}.md": nothing
        for name in (
            "index",
            "translation",
            "text_classification",
            "language_model",
            "vision_transformer",
            "image_classification",
            "speech_recognition",
        )
    },
}

ENVIRONMENT = {"docs/frameworks/keras.md": {"KERAS_BACKEND": "torch"}}
"""Variables that a page's reader has set."""
