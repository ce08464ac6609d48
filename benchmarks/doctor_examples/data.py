"""Files that the scripts are given: texts as JSON lines, and small models with tokenizers.

    python -m benchmarks.doctor_examples.data

Users name a data set and a model of a hub. No hub is needed here: the texts are of Python's library
and of Debian packages, which `apt-get` fetches; the models have random weights.
"""

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer, WordPieceTrainer
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    set_seed,
)

from benchmarks import machine

EXAMPLES = str(machine.REPOSITORY / "examples" / "applications")

sys.path.insert(0, EXAMPLES)
try:
    from debian_packages import NoPackageError, unpacked
    from dictionary import articles
    from python_functions import functions
    from text_classification import glosses
    from translation_pairs import pairs
finally:
    sys.path.remove(EXAMPLES)

__all__ = ["FOLDER", "NoPackageError", "write_data"]

FOLDER = machine.REPOSITORY / "build" / "doctor_examples"

VOCABULARY = 4_096

WIDTH = 128

SIZES = {"glosses": 2_400, "words": 2_010, "functions": 600, "pairs": 1_600, "articles": 2_000}
"""Samples to train on."""

HELD_OUT = 200

Row = dict[str, object]


def write_data(names: Iterable[str] = ("bert", "gpt2", "t5"), folder: Path = FOLDER) -> Path:
    """Write models, and the texts that they are for, where they are not there yet.

    Args:
        names: Of models.
        folder: Where to. It holds ``NAME.train.json``, ``NAME.validation.json`` and a folder for
            each model.

    Raises:
        NoPackageError: If the texts cannot be had.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        make, texts = _MAKERS[name]
        for each in texts:
            if not (folder / f"{each}.validation.json").is_file():
                _write(folder, each, _READERS[each]())
        if not (folder / name / "config.json").is_file():
            set_seed(0)
            model, tokenizer = make(folder)
            tokenizer.save_pretrained(folder / name)
            model.save_pretrained(folder / name)
    return folder


def _write(folder: Path, name: str, rows: Sequence[Row]) -> None:
    """Choose rows at random, and write them; the last file says that all is there."""
    count = SIZES[name] + HELD_OUT
    chosen = [rows[place] for place in np.random.default_rng(0).permutation(len(rows))[:count]]
    for split, part in (("train", chosen[HELD_OUT:]), ("validation", chosen[:HELD_OUT])):
        text = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in part)
        (folder / f"{name}.{split}.json").write_text(text, encoding="utf-8")


def _glosses() -> list[Row]:
    """Return definitions of words, and their kind."""
    found = glosses(unpacked("wordnet-base"))
    return [{"sentence": text, "label": f"kind {kind}"} for text, kind in found]


def _words() -> list[Row]:
    """Return words and a definition, and whether it is theirs: half of them have another's."""
    found: dict[str, str] = {}
    for path in sorted((unpacked("wordnet-base") / "usr/share/wordnet").glob("data.*")):
        for line in path.read_text(encoding="utf-8").splitlines():
            head, bar, gloss = line.partition(" | ")
            if bar and not line.startswith("  "):
                fields = head.split()
                words = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
                found.setdefault(gloss.strip(), ", ".join(words).replace("_", " "))
    rng = np.random.default_rng(1)
    texts = list(found)
    places = np.arange(len(texts))
    is_other = rng.random(len(texts)) < 0.5
    places[is_other] = rng.permutation(places[is_other])
    return [
        {"sentence1": found[text], "sentence2": texts[place], "label": int(place == own)}
        for own, (text, place) in enumerate(zip(texts, places, strict=True))
    ]


def _pairs() -> list[Row]:
    """Return paragraphs in English and in German."""
    return [{"translation": {"en": each.source, "de": each.target}} for each in pairs()]


_READERS: Mapping[str, Callable[[], Sequence[Row]]] = {
    "glosses": _glosses,
    "words": _words,
    "functions": lambda: [{"text": each} for each in functions()],
    "pairs": _pairs,
    "articles": lambda: [{"text": each} for each in articles(unpacked("dict-foldoc"))],
}


def _texts(folder: Path, *names: str) -> Iterable[str]:
    for name in names:
        for line in (folder / f"{name}.train.json").read_text(encoding="utf-8").splitlines():
            for value in json.loads(line).values():
                yield from value.values() if isinstance(value, dict) else [str(value)]


def _bert(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token=special[1]))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(_texts(folder, "glosses", "words", "articles"), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(each, special.index(each)) for each in ("[CLS]", "[SEP]")],
    )
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=4 * WIDTH,
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **dict(
            zip(
                ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"),
                special,
                strict=True,
            )
        ),
        model_max_length=config.max_position_embeddings,
    )
    return BertModel(config), wrapped


def _bytes(folder: Path, name: str, special: Sequence[str]) -> Tokenizer:
    """Learn a vocabulary of byte pairs from texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(folder, name), trainer)
    return tokenizer


def _gpt2(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    end = "<|endoftext|>"
    tokenizer = _bytes(folder, "functions", [end])
    config = GPT2Config(
        vocab_size=tokenizer.get_vocab_size(),
        n_embd=WIDTH,
        n_layer=2,
        n_head=2,
        n_positions=512,
        bos_token_id=0,
        eos_token_id=0,
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=end,
        eos_token=end,
        model_max_length=config.n_positions,
        model_input_names=["input_ids", "attention_mask"],
    )
    return GPT2LMHeadModel(config), wrapped


def _t5(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    special = ["<pad>", "</s>"]
    tokenizer = _bytes(folder, "pairs", special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    config = T5Config(
        vocab_size=tokenizer.get_vocab_size(),
        d_model=WIDTH,
        d_kv=WIDTH // 2,
        d_ff=4 * WIDTH,
        num_layers=2,
        num_heads=2,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **dict(zip(("pad_token", "eos_token"), special, strict=True)),
        model_max_length=512,
        model_input_names=["input_ids", "attention_mask"],
    )
    return T5ForConditionalGeneration(config), wrapped


_MAKERS = {
    "bert": (_bert, ("glosses", "words", "articles")),
    "gpt2": (_gpt2, ("functions",)),
    "t5": (_t5, ("pairs",)),
}
"""Model → what makes it, and the texts that it is for."""


if __name__ == "__main__":
    print(write_data().relative_to(machine.REPOSITORY))
