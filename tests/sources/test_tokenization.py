"""Tokens, counted by real tokenizers."""

import json

import numpy as np
import pytest

from batchwright import sources
from batchwright.errors import SourceError, SourceNotFoundError

tokenizers = pytest.importorskip("tokenizers")

TEXTS = ["to be or not to be", "", "that is the question", "to " * 500, "é 漢 \u2003 😀"]


@pytest.fixture(scope="module")
def tokenizer():
    """Return a byte-level BPE trained here, which truncates, pads and adds special tokens."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=64)
    return tokenizer


@pytest.fixture(scope="module")
def expected(tokenizer) -> list[int]:
    plain = tokenizers.Tokenizer.from_str(tokenizer.to_str())
    plain.no_truncation()
    plain.no_padding()
    return [len(plain.encode(text).ids) for text in TEXTS]


@pytest.fixture
def saved(tokenizer, tmp_path):
    path = tmp_path / "model" / "tokenizer.json"
    path.parent.mkdir()
    tokenizer.save(str(path))
    return path


@pytest.mark.parametrize("name", ["data.parquet", "stream.arrow", "data.jsonl", "data.csv"])
def test_a_file_a_directory_and_an_object_count_the_same(
    write, name, saved, tokenizer, expected
) -> None:
    path = write(name, {"id": list(range(5)), "text": TEXTS})
    assert max(expected) > 64  # longer than what it truncates and pads to
    assert expected[1] == 2  # <s> </s>
    for given in (str(saved), saved, saved.parent, tokenizer):
        lengths = sources.read_lengths(path, tokenizer=given, cache=False)
        assert lengths.dtype == np.int64
        assert lengths.tolist() == expected
    asked = sources.read_lengths(path, column="text", measure="tokens", tokenizer=saved)
    assert asked.tolist() == expected


def test_the_object_that_was_given_is_not_changed(write, tokenizer) -> None:
    before = tokenizer.to_str()
    sources.read_lengths(write("data.csv", {"text": TEXTS}), tokenizer=tokenizer)
    assert tokenizer.to_str() == before
    assert len(tokenizer.encode(TEXTS[3]).ids) == 64


def test_many_batches_keep_their_order(write, saved, tokenizer) -> None:
    texts = ["to be " * (i % 11) for i in range(5000)]
    lengths = sources.read_lengths(write("data.parquet", {"text": texts}), tokenizer=saved)
    by_remainder = lengths[:11].tolist()
    assert lengths.tolist() == [by_remainder[i % 11] for i in range(5000)]
    assert len(set(by_remainder)) == 11


@pytest.mark.slow
def test_a_tokenizer_of_transformers(write, saved, expected) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(saved))
    path = write("data.parquet", {"text": TEXTS})
    assert sources.read_lengths(path, tokenizer=tokenizer).tolist() == expected
    tokenizer.save_pretrained(saved.parent / "saved")
    found = sources.read_lengths(path, tokenizer=saved.parent / "saved", cache=False)
    assert found.tolist() == expected


@pytest.mark.parametrize("convert", [list, np.array, tuple])
def test_a_function_counts_as_it_likes(write, convert) -> None:
    path = write("data.parquet", {"text": TEXTS})
    lengths = sources.read_lengths(path, tokenizer=lambda texts: convert([len(t) for t in texts]))
    assert lengths.tolist() == [len(text) for text in TEXTS]


@pytest.mark.parametrize(
    "result",
    [3, [1], [1.5] * 5, [[1, 2]] * 5, [[1], [1, 2], [], [], []], [-1] * 5, ["a"] * 5, None],
)
def test_what_a_function_may_not_return(write, result) -> None:
    with pytest.raises(SourceError, match=r"The tokenizer function returned .* for 5 texts"):
        sources.read_lengths(write("data.parquet", {"text": TEXTS}), tokenizer=lambda _: result)


def test_an_error_in_a_function_is_its_own(write) -> None:
    def fail(texts):
        raise ValueError("mine")

    with pytest.raises(ValueError, match=r"^mine$") as caught:
        sources.read_lengths(write("data.parquet", {"text": TEXTS}), tokenizer=fail)
    assert not isinstance(caught.value, SourceError)


@pytest.mark.parametrize(
    ("tokenizer", "error", "message"),
    [
        ("gpt2", SourceNotFoundError, "no tokenizer at gpt2"),
        ("", SourceNotFoundError, "no tokenizer at"),
        (5, SourceError, "tokenizer=5 is not a tokenizer"),
    ],
)
def test_what_is_no_tokenizer(write, tokenizer, error, message) -> None:
    with pytest.raises(error, match=message):
        sources.read_lengths(write("data.parquet", {"text": TEXTS}), tokenizer=tokenizer)


def test_damaged_tokenizers(write, saved) -> None:
    path = write("data.parquet", {"text": TEXTS})
    content = saved.read_bytes()
    for damaged in (b"", content[: len(content) // 2], b"{}", b"\xff", json.dumps([1]).encode()):
        saved.write_bytes(damaged)
        with pytest.raises(
            SourceError, match=r"tokenizer\.json cannot be read as a tokenizer"
        ) as caught:
            sources.read_lengths(path, tokenizer=saved)
        assert "\n" not in str(caught.value)


def test_a_tokenizer_and_another_measure_contradict(write, saved) -> None:
    path = write("data.parquet", {"text": TEXTS})
    with pytest.raises(
        SourceError, match="measure='words' with tokenizer=.*no other measure takes one"
    ):
        sources.read_lengths(path, measure="words", tokenizer=saved)
    with pytest.raises(
        SourceError,
        match="measure='tokens' with tokenizer=None: measure='tokens' needs a tokenizer",
    ):
        sources.read_lengths(path, measure="tokens")
