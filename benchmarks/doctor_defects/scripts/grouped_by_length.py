"""`group_by_length`: every update sees samples of one length."""

import sys

import datasets
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

REPAIRED = "--repaired" in sys.argv


def collate(samples):
    ids = pad_sequence([torch.tensor(sample["input_ids"]) for sample in samples], batch_first=True)
    labels = torch.tensor([sample["labels"] for sample in samples])
    return {"input_ids": ids, "attention_mask": ids.ne(0).long(), "labels": labels}


torch.manual_seed(0)
lengths = torch.randn(800).mul(0.8).add(3).exp().clamp(3, 120).long().tolist()
data = datasets.Dataset.from_dict(
    {
        "input_ids": [torch.randint(1, 200, (length,)).tolist() for length in lengths],
        "labels": torch.randint(3, (800,)).tolist(),
    }
)
config = BertConfig(
    vocab_size=200,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=1,
    num_attention_heads=2,
    max_position_embeddings=128,
    num_labels=3,
)
arguments = TrainingArguments(
    "out",
    per_device_train_batch_size=16,
    num_train_epochs=2,
    train_sampling_strategy="random" if REPAIRED else "group_by_length",
    logging_steps=10,
    save_strategy="no",
    report_to="none",
    use_cpu=True,
)
model = BertForSequenceClassification(config)
Trainer(model, arguments, train_dataset=data, data_collator=collate).train()
