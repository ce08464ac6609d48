"""Small trainers of other libraries whose samples say who they are: sample i begins with i + 1."""

import tempfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from tests.integrations.trainers import LENGTHS, SMALL, model_of

SETTINGS = {"report_to": "none", "use_cpu": True, "disable_tqdm": True, "save_strategy": "no"}
SETTINGS |= {"logging_strategy": "no", "learning_rate": 0.1, "max_grad_norm": 0.0}
SETTINGS |= {"optim": "sgd", "lr_scheduler_type": "constant"}
EXACT = {"bf16": False, "gradient_checkpointing": False}  # TRL sets both


def kin_of(kind: str, folder: Path, **options: Any) -> Any:
    """Construct a trainer of a kind, as its user does; note what its model reads in training."""
    datasets.disable_progress_bars()
    match kind:
        case "sft" | "lora":
            return sft_of(folder, lora=kind == "lora", **options)
        case "rows":
            return sentences_of(folder, "CosineSimilarityLoss", **options)
        case "batch":
            return sentences_of(folder, "MultipleNegativesRankingLoss", **options)
        case _:
            return preferences_of(kind, folder, **options)


def reads_of(kind: str, trainer: Any) -> list[list[int]]:
    """Return the samples of each batch that the model read, without those of second columns."""
    passes = trainer.passes[:: 2 if kind in {"rows", "batch"} else 1]
    return [each[: len(each) // 2] for each in passes] if kind in {"reward", "dpo"} else passes


def tokenizer_of() -> Any:
    """Make a tokenizer of words that are their own number."""
    unknown = {"unk_token": "79"}
    words = WordLevel({"<pad>": 0, **{str(each): each for each in range(1, 80)}}, **unknown)
    tokenizer = Tokenizer(words)
    tokenizer.pre_tokenizer = WhitespaceSplit()
    special = unknown | {"pad_token": "<pad>", "eos_token": "79"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def _words(index: int, count: int) -> str:
    return " ".join([str(index + 1)] * int(count))


def completions() -> Any:
    """Make prompts and completions: each prompt says which sample it is."""
    return datasets.Dataset.from_list(
        [
            {"prompt": _words(index, 1), "completion": f" {_words(index % 7 + 2, length)}"}
            for index, length in enumerate(LENGTHS)
        ]
    )


def sft_of(folder: Path, *, lora: bool = False, model: str = "llama", **options: Any) -> Any:
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    own = {"train_dataset": completions()} | _taken(options)
    torch.manual_seed(0)
    if lora:
        targets = ["q_proj", "v_proj"] if model == "llama" else ["c_attn"]
        own["peft_config"] = LoraConfig(r=4, lora_alpha=8, target_modules=targets)
    settings = SFTConfig(str(folder), **SETTINGS | EXACT | options)
    trainer = SFTTrainer(model_of(model), settings, processing_class=tokenizer_of(), **own)
    inner = trainer.model.get_base_model() if lora else trainer.model
    return _noted(trainer, inner.base_model)


def preferences_of(kind: str, folder: Path, **options: Any) -> Any:
    from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer

    data = [
        {
            "prompt": _words(index, 1),
            "chosen": f" {_words(index % 7 + 2, length)}",
            "rejected": f" {_words(index % 5 + 9, other)}",
        }
        for index, (length, other) in enumerate(zip(LENGTHS, LENGTHS[::-1], strict=True))
    ]
    own = {"train_dataset": datasets.Dataset.from_list(data)} | _taken(options)
    settings = SETTINGS | EXACT | options
    tokenizer = tokenizer_of()
    if kind == "dpo":
        trainer = DPOTrainer(
            model_of("llama"),
            args=DPOConfig(str(folder), **settings),
            ref_model=model_of("llama"),
            processing_class=tokenizer,
            **own,
        )
    else:
        torch.manual_seed(0)
        model = LlamaForSequenceClassification(LlamaConfig(**SMALL, num_labels=1, pad_token_id=0))
        trainer = RewardTrainer(
            model, args=RewardConfig(str(folder), **settings), processing_class=tokenizer, **own
        )
    return _noted(trainer, trainer.model.base_model)


def pairs() -> Any:
    """Make pairs of texts with scores."""
    random = np.random.default_rng(2)
    samples = [
        {
            "first": _words(index, length),
            "second": _words(int(random.integers(79)), other),
            "score": float(random.random()),
        }
        for index, (length, other) in enumerate(zip(LENGTHS, LENGTHS[::-1], strict=True))
    ]
    return datasets.Dataset.from_list(samples)


def sentences_of(folder: Path, loss: str, **options: Any) -> Any:
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
        losses,
    )
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    torch.manual_seed(0)
    rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    body = BertModel(BertConfig(**SMALL, **rates, max_position_embeddings=64))
    with tempfile.TemporaryDirectory() as path:
        body.config.save_pretrained(path)
        save_file(body.state_dict(), f"{path}/model.safetensors")  # on every rank
        tokenizer_of().save_pretrained(path)
        model = SentenceTransformer(modules=[Transformer(path), Pooling(16)], device="cpu")
    own = {"train_dataset": pairs()} | _taken(options)
    if loss.startswith("Multiple"):
        own["train_dataset"] = own["train_dataset"].remove_columns("score")
    trainer = SentenceTransformerTrainer(
        model,
        SentenceTransformerTrainingArguments(str(folder), **SETTINGS | options),
        loss=getattr(losses, loss)(model),
        **own,
    )
    return _noted(trainer, model[0].model.embeddings)  # the body is not called, but its method


def _taken(options: dict[str, Any]) -> dict[str, Any]:
    """Take the arguments of a trainer out of those of its settings."""
    names = ("train_dataset", "eval_dataset", "callbacks", "compute_metrics", "data_collator")
    return {name: options.pop(name) for name in names if name in options}


def _noted(trainer: Any, model: Any) -> Any:
    trainer.passes = []

    def note(model: Any, args: Any, given: Any) -> None:
        tokens = given["input_ids"] if "input_ids" in given else args[0]
        places = given.get("position_ids")
        if model.training and torch.is_grad_enabled():
            first = tokens[:, 0] if places is None or len(tokens) > 1 else tokens[places == 0]
            trainer.passes.append((first - 1).tolist())

    model.register_forward_pre_hook(note, with_kwargs=True)
    return trainer
