"""Texts are sorted by length to save padding, and are trained from short to long."""

import random
import sys

import datasets
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed
from trl import SFTConfig, SFTTrainer

REPAIRED = "--repaired" in sys.argv

set_seed(0)
words = [f"word{number}" for number in range(200)]
vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[EOS]", *words])}
inner = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
inner.pre_tokenizer = WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", eos_token="[EOS]"
)

lengths = sorted(min(int(random.lognormvariate(3, 0.7)) + 2, 100) for _ in range(480))
texts = [" ".join(random.choices(words, k=length)) for length in lengths]
config = LlamaConfig(
    vocab_size=len(vocabulary),
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=1,
    num_attention_heads=2,
)
arguments = SFTConfig(
    "out",
    per_device_train_batch_size=16,
    num_train_epochs=2,
    train_sampling_strategy="random" if REPAIRED else "sequential",
    logging_steps=10,
    save_strategy="no",
    report_to="none",
    use_cpu=True,
    bf16=False,
)
model = LlamaForCausalLM(config)
data = datasets.Dataset.from_dict({"text": texts})
SFTTrainer(model, arguments, train_dataset=data, processing_class=tokenizer).train()
