"""Transformers' Trainer, with its own batches or with those of a plan.

python trainer.py FOLDER [--resume] [--plan], or by torchrun
"""

import gc
import warnings

import torch
from samples import EPOCHS, SAMPLES, options
from torch import distributed
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from batchwright.integrations.transformers import use_plan


def collate(samples):
    """Pad samples to the longest; padding is no label."""
    tokens = [torch.as_tensor(each["input_ids"]) for each in samples]
    padded = pad_sequence(tokens, batch_first=True)
    return {
        "input_ids": padded,
        "attention_mask": (padded > 0).long(),
        "labels": pad_sequence(tokens, batch_first=True, padding_value=-100),
    }


def train(given):
    """Train, from the last checkpoint if that is asked for."""
    sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    samples = [{"input_ids": each["tokens"].tolist()} for each in SAMPLES]
    trainer = Trainer(
        LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2)),
        TrainingArguments(
            str(given.folder),
            num_train_epochs=EPOCHS,
            per_device_train_batch_size=4,
            learning_rate=1e-3,
            save_steps=given.every,
            remove_unused_columns=False,
            disable_tqdm=True,
            report_to="none",
            use_cpu=True,
        ),
        train_dataset=samples,
        data_collator=collate,
    )
    if given.plan:
        use_plan(trainer, evaluate=False)
    trainer.train(resume_from_checkpoint=given.resume or None)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    try:
        train(options("--plan"))
    finally:  # the threads of a group that outlives the interpreter abort the process
        gc.collect()
        if distributed.is_initialized():
            distributed.destroy_process_group()
