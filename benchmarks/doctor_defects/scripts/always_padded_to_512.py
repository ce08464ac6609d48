"""`padding="max_length"`: texts of some thirty words are padded to 512 tokens."""

import random
import sys

import datasets
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)

REPAIRED = "--repaired" in sys.argv

set_seed(0)
words = [f"word{number}" for number in range(200)]
vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *words])}
inner = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
inner.pre_tokenizer = WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", model_max_length=512
)


def tokenize(row):
    padding = False if REPAIRED else "max_length"
    return tokenizer(row["text"], truncation=True, max_length=512, padding=padding)


texts = [" ".join(random.choices(words, k=random.randint(31, 34))) for _ in range(192)]
labels = [random.randrange(3) for _ in texts]
data = datasets.Dataset.from_dict({"text": texts, "label": labels}).map(tokenize, batched=True)
config = BertConfig(
    vocab_size=len(vocabulary),
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_labels=3,
)
arguments = TrainingArguments(
    "out",
    per_device_train_batch_size=8,
    num_train_epochs=2,
    logging_steps=10,
    save_strategy="no",
    report_to="none",
    use_cpu=True,
)
model = BertForSequenceClassification(config)
collator = DataCollatorWithPadding(tokenizer)
Trainer(model, arguments, train_dataset=data, data_collator=collator).train()
