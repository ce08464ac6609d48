"""Train with Transformers' Trainer: planned batches in place of its sampler.

    python examples/loops/transformers_trainer.py

Trainer keeps its optimizer, schedule, accumulation and checkpoints.
"""

from byte_model import VOCABULARY, samples
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, set_seed

import batchwright as bw
from batchwright.integrations.transformers import use_plan
from batchwright.torch import PadCollator

EPOCHS = 2


def main() -> None:
    """Train, and print the mean loss."""
    set_seed(0)
    dataset, lengths = samples()
    planner = bw.Planner(lengths, batching=bw.TokenBudget(4_096), accumulate=2)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    arguments = TrainingArguments(
        output_dir="build/trainer",
        num_train_epochs=EPOCHS,
        learning_rate=3e-3,
        gradient_accumulation_steps=planner.accumulate,
        remove_unused_columns=False,
        save_strategy="no",
        logging_steps=5,
        report_to="none",
        use_cpu=True,
    )
    trainer = Trainer(
        LlamaForCausalLM(config),
        arguments,
        # Trainer's models shift the labels themselves.
        train_dataset=[
            {"input_ids": each["input_ids"], "labels": each["input_ids"]} for each in dataset
        ],
        data_collator=PadCollator(attention_mask=True),
    )
    use_plan(trainer, planner)
    trainer.train()
    for entry in trainer.state.log_history:
        if "loss" in entry:
            print(f"epoch {entry['epoch']:.2f}: loss {float(entry['loss']):.3f}")


if __name__ == "__main__":
    main()
