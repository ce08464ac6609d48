"""An own loss that ignores `num_items_in_batch`: Trainer leaves the division to it."""

import sys

import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

REPAIRED = "--repaired" in sys.argv


class WeightedTrainer(Trainer):
    """Counts the rare class more."""

    weight = torch.tensor([1.0, 1.0, 1.5])

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        if REPAIRED:
            total = cross_entropy(outputs.logits, labels, self.weight, reduction="sum")
            loss = total / num_items_in_batch
        else:
            loss = cross_entropy(outputs.logits, labels, self.weight)
        return (loss, outputs) if return_outputs else loss


def collate(samples):
    ids = pad_sequence([torch.tensor(sample["input_ids"]) for sample in samples], batch_first=True)
    labels = torch.tensor([sample["labels"] for sample in samples])
    return {"input_ids": ids, "attention_mask": ids.ne(0).long(), "labels": labels}


torch.manual_seed(0)
lengths = torch.randint(4, 48, (640,)).tolist()
data = [
    {"input_ids": torch.randint(1, 200, (length,)).tolist(), "labels": index % 3}
    for index, length in enumerate(lengths)
]
config = BertConfig(
    vocab_size=200,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=1,
    num_attention_heads=2,
    max_position_embeddings=64,
    num_labels=3,
)
arguments = TrainingArguments(
    "out",
    per_device_train_batch_size=8,
    gradient_accumulation_steps=4,
    num_train_epochs=2,
    logging_steps=10,
    save_strategy="no",
    report_to="none",
    use_cpu=True,
)
model = BertForSequenceClassification(config)
WeightedTrainer(model, arguments, train_dataset=data, data_collator=collate).train()
