"""Labels are a copy of the padded inputs: the model is trained to write padding."""

import sys

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

REPAIRED = "--repaired" in sys.argv


def collate(samples):
    ids = pad_sequence([torch.tensor(sample["input_ids"]) for sample in samples], batch_first=True)
    mask = ids.ne(0).long()
    labels = ids.clone()
    if REPAIRED:
        labels[mask == 0] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


torch.manual_seed(0)
lengths = torch.randint(4, 48, (320,)).tolist()
texts = [{"input_ids": torch.randint(1, 200, (length,)).tolist()} for length in lengths]
config = LlamaConfig(
    vocab_size=200,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=1,
    num_attention_heads=2,
    pad_token_id=0,
)
arguments = TrainingArguments(
    "out",
    per_device_train_batch_size=16,
    num_train_epochs=2,
    logging_steps=10,
    save_strategy="no",
    report_to="none",
    use_cpu=True,
)
model = LlamaForCausalLM(config)
Trainer(model, arguments, train_dataset=texts, data_collator=collate).train()
