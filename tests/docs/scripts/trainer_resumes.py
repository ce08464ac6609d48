"""Transformers' Trainer sees what the plan says, also when it goes on in the middle of an epoch.

python trainer_resumes.py, or by torchrun on several ranks.
"""

import gc

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

import batchwright as bw
from batchwright.torch import PadCollator, PlanBatchSampler

EPOCHS = 2
LENGTHS = np.random.default_rng(0).lognormal(3, 0.7, 80).clip(2, 64).astype(int)
PLANNER = bw.Planner(LENGTHS, batching=bw.TokenBudget(256), accumulate=2)
SEEN = []


class Tokens(Dataset):
    def __len__(self):
        return len(LENGTHS)

    def __getitem__(self, index):
        SEEN.append(index)
        tokens = torch.arange(LENGTHS[index]) % 30 + 1
        return {"input_ids": tokens, "labels": tokens}


class PlannedTrainer(Trainer):
    def get_train_dataloader(self):
        sampler = PlanBatchSampler(PLANNER)
        loader = DataLoader(
            self.train_dataset, batch_sampler=sampler, collate_fn=self.data_collator
        )
        loader.set_epoch = sampler.set_epoch
        return loader


def trainer() -> PlannedTrainer:
    settings = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
    )
    arguments = TrainingArguments(
        output_dir="trained",
        num_train_epochs=EPOCHS,
        gradient_accumulation_steps=2,
        remove_unused_columns=False,
        report_to="none",
        use_cpu=True,
    )
    return PlannedTrainer(
        LlamaForCausalLM(settings),
        arguments,
        train_dataset=Tokens(),
        data_collator=PadCollator(attention_mask=True),
    )


def check() -> None:
    whole = trainer()
    rank, ranks = whole.args.process_index, whole.args.world_size
    planner = PLANNER.resized(ranks)
    batches = [batch for epoch in range(EPOCHS) for batch in planner(epoch).shard(rank, ranks)]
    updates = len(batches) // 2
    middle = updates // EPOCHS + 1  # one update into the second epoch
    whole.args.save_steps = middle
    whole.train()
    planned = np.concatenate(batches).tolist()
    assert planned == SEEN, "another order than the plan's"
    assert whole.state.global_step == updates > middle + 1
    SEEN.clear()
    trainer().train(resume_from_checkpoint=f"trained/checkpoint-{middle}")
    rest = np.concatenate(batches[2 * middle :]).tolist()
    assert rest == SEEN, "not what had not been seen"
    if ranks > 1:
        torch.distributed.barrier()


if __name__ == "__main__":
    try:
        check()
    finally:  # the threads of a group that outlives the interpreter abort the process
        gc.collect()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
