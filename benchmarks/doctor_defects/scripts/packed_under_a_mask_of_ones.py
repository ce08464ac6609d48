"""Packed rows with an attention mask of ones: the restarting positions count for nothing."""

import sys

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

REPAIRED = "--repaired" in sys.argv
ROW = 128


def packed(documents):
    """Fill rows with documents, one after another."""
    rows, row = [], []
    for document in documents:
        if sum(map(len, row)) + len(document) > ROW:
            rows.append(row)
            row = []
        row.append(document)
    return [*rows, row]


def collate(rows):
    shape = len(rows), ROW
    ids, positions = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, -100)
    for number, row in enumerate(rows):
        at = 0
        for document in row["documents"]:
            place = slice(at, at + len(document))
            ids[number, place] = labels[number, place] = torch.tensor(document)
            positions[number, place] = torch.arange(len(document))
            labels[number, at] = -100
            at += len(document)
    batch = {"input_ids": ids, "position_ids": positions, "labels": labels}
    if not REPAIRED:
        batch["attention_mask"] = torch.ones(shape, dtype=torch.long)
    return batch


torch.manual_seed(0)
lengths = torch.randint(8, 60, (600,)).tolist()
documents = [torch.randint(1, 200, (length,)).tolist() for length in lengths]
rows = [{"documents": row} for row in packed(documents)]
config = LlamaConfig(
    vocab_size=200,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=1,
    num_attention_heads=2,
    use_cache=False,
)
arguments = TrainingArguments(
    "out",
    per_device_train_batch_size=4,
    num_train_epochs=1,
    logging_steps=10,
    save_strategy="no",
    report_to="none",
    use_cpu=True,
    remove_unused_columns=False,
)
model = LlamaForCausalLM(config)
Trainer(model, arguments, train_dataset=rows, data_collator=collate).train()
