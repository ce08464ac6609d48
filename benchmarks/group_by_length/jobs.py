"""What all arms train: two small models of Transformers, and how their loss is measured."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DataCollatorForSeq2Seq,
    DataCollatorWithPadding,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from benchmarks.group_by_length.setting import Setting

_SIZES = {"hidden_size": 96, "intermediate_size": 288, "num_hidden_layers": 2}
_SIZES |= {"num_attention_heads": 3, "max_position_embeddings": 256, "pad_token_id": 0}


@dataclass(frozen=True)
class Job:
    """A model, data to train it on and to measure its loss on, and how these become batches."""

    samples: Sequence[dict[str, Any]]
    held_out: Sequence[dict[str, Any]]
    collate: Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]
    model: torch.nn.Module

    @torch.no_grad()
    def evaluate(self) -> float:
        """Return the mean loss over everything that is held out, whatever its batches."""
        was_training = self.model.training
        self.model.eval()
        order = np.argsort([len(each["input_ids"]) for each in self.held_out], kind="stable")
        total = counted = 0.0
        for first in range(0, len(order), 32):
            batch = self.collate([self.held_out[index] for index in order[first : first + 32]])
            labels = batch["labels"][..., 1:] if batch["labels"].ndim > 1 else batch["labels"]
            count = int(labels.ne(-100).sum())
            total += float(self.model(**batch).loss) * count
            counted += count
        self.model.train(was_training)
        return total / counted


def job_of(setting: Setting, data: Path) -> Job:
    """Make the job: the same data, and for a seed the same first weights, for every arm."""
    found = json.loads(data.read_text(encoding="utf-8"))
    sizes = _SIZES | {"vocab_size": setting.vocabulary}
    # It pads; texts are tokens already.
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({"": 0})), pad_token=""
    )
    torch.manual_seed(setting.seed)
    model: torch.nn.Module
    if setting.data == "functions":
        model = LlamaForCausalLM(LlamaConfig(**sizes, use_cache=False))
        collate: Any = DataCollatorForSeq2Seq(tokenizer)
    else:
        none = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        model = BertForSequenceClassification(BertConfig(**sizes, **none, num_labels=45))
        collate = DataCollatorWithPadding(tokenizer)
    return Job(found["train"], found["held_out"], collate, model)
