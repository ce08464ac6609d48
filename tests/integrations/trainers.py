"""Small trainers whose samples say who they are: sample i is made of token i + 1."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainingArguments,
)

from batchwright.torch import PadCollator

LENGTHS = np.random.default_rng(0).lognormal(2.5, 0.7, 61).clip(2, 40).astype(int)
COLLATE = PadCollator(attention_mask=True)

SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
SMALL |= {"num_attention_heads": 2, "vocab_size": 80}


def _bert(dropout: float) -> Any:
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return BertConfig(**SMALL, **rates, max_position_embeddings=64, num_labels=3)


def model_of(kind: str, *, dropout: float = 0.0) -> Any:
    """Make a model with random parameters, always the same."""
    torch.manual_seed(0)
    gpt2 = {"embd_pdrop": dropout, "attn_pdrop": dropout, "resid_pdrop": dropout}
    match kind:
        case "classifier":
            return BertForSequenceClassification(_bert(dropout))
        case "tagger":
            return BertForTokenClassification(_bert(dropout))
        case "gpt2":
            return GPT2LMHeadModel(
                GPT2Config(vocab_size=80, n_embd=16, n_layer=1, n_head=2, n_positions=64, **gpt2)
            )
        case "llama":
            return LlamaForCausalLM(LlamaConfig(**SMALL))
        case "t5":
            sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
            return T5ForConditionalGeneration(
                T5Config(vocab_size=80, decoder_start_token_id=0, dropout_rate=dropout, **sizes)
            )
    raise ValueError(kind)


def samples_of(kind: str, lengths: Sequence[int] = LENGTHS) -> list[dict[str, Any]]:
    """Make one sample for each length, with the labels that a kind of model is trained on."""
    random = np.random.default_rng(1)
    samples = []
    for index, length in enumerate(lengths):
        tokens = [index + 1] * int(length)
        labels: Any = index % 3 if kind == "classifier" else random.integers(0, 3, length).tolist()
        if kind in {"llama", "gpt2"}:
            labels = [-100] * (index % 3) + random.integers(1, 80, length - index % 3).tolist()
            labels = labels[:length]
        if kind == "t5":
            labels = random.integers(1, 80, 1 + index % 5).tolist()
        samples.append({"input_ids": tokens, "labels": labels})
    return samples


def trainer_of(kind: str, folder: Path, *, dropout: float = 0.0, **options: Any) -> Any:
    """Construct a trainer as its user does, without a plan; note what its model reads."""
    own = {name: options.pop(name) for name in list(options) if name in _OF_TRAINER}
    settings = {"report_to": "none", "use_cpu": True, "disable_tqdm": True, "save_strategy": "no"}
    settings |= {"logging_strategy": "no", "learning_rate": 0.01, "max_grad_norm": 0.0}
    arguments = TrainingArguments(str(folder), **settings | options)
    own = {"train_dataset": samples_of(kind), "data_collator": COLLATE} | own
    model = own.pop("model", None) or model_of(kind, dropout=dropout)
    trainer = own.pop("type", Trainer)(model, arguments, **own)
    trainer.read = []

    def note(model: Any, args: Any, given: Any) -> None:
        if model.training:
            trainer.read += (given["input_ids"][:, 0] - 1).tolist()

    trainer.model.register_forward_pre_hook(note, with_kwargs=True)
    return trainer


_OF_TRAINER = ("type", "model", "train_dataset", "eval_dataset", "data_collator", "callbacks")
_OF_TRAINER += ("compute_metrics", "compute_loss_func")


def weights(trainer: Any) -> Any:
    return torch.cat([each.detach().flatten() for each in trainer.model.parameters()])
