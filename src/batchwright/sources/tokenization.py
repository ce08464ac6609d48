"""What counts the tokens of texts: a tokenizer.json, a tokenizer object, or any function."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from batchwright._format import one_line
from batchwright.errors import SourceError, SourceNotFoundError
from batchwright.sources.table import reading

Tokenizer: TypeAlias = "str | os.PathLike[str] | Callable[[list[str]], Any] | Any"
"""A tokenizer.json or a directory with one; a tokenizer of `tokenizers` or `transformers`; or a
function from a list of texts to the number of tokens of each."""


@dataclass(frozen=True, slots=True)
class Tokenization:
    """How many tokens texts have.

    Attributes:
        count: From a list of k texts to int64[k], tokens.
        key: What identifies the tokenizer's content; None for a function, which has none.
    """

    count: Callable[[list[str]], np.ndarray]
    key: str | None


def tokenization(tokenizer: Tokenizer) -> Tokenization:
    """Return what counts tokens the way a tokenizer makes them.

    Truncation and padding are switched off, since with them every length would be a lie. Special
    tokens are counted as the tokenizer itself adds them. A tokenizer object is copied, not changed.

    Args:
        tokenizer: The path of a tokenizer.json, or of a directory that holds one; a
            `tokenizers.Tokenizer`; a fast tokenizer of `transformers`; or a function from
            list[str] to as many integers.

    Raises:
        SourceNotFoundError: There is no such file.
        SourceError: It is no tokenizer.
        MissingExtraError: The package `tokenizers` is not installed.
    """
    if isinstance(tokenizer, str | os.PathLike):
        return _of_file(Path(tokenizer))
    inner = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if hasattr(inner, "to_str") and hasattr(inner, "encode_batch"):
        return _of_json(inner.to_str().encode(), "the tokenizer")
    if callable(tokenizer):
        return _of_function(tokenizer)
    raise SourceError(
        f"tokenizer={one_line(repr(tokenizer), 80)} is no tokenizer: pass the path of a "
        "tokenizer.json, or a function from a list of texts to a list of lengths."
    )


def _of_file(path: Path) -> Tokenization:
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise SourceNotFoundError(
            f"There is no tokenizer at {file}. Pass the path of a tokenizer.json; "
            "tokenizer.save_pretrained(directory) of transformers writes one."
        )
    with reading(str(file), "a tokenizer"):
        content = file.read_bytes()
    return _of_json(content, str(file))


def _of_json(content: bytes, name: str) -> Tokenization:
    # Loaded only when needed: with a cached result, the content's hash is enough.
    @cache
    def loaded() -> Any:
        with reading(name, "a tokenizer"):
            from tokenizers import Tokenizer as FastTokenizer

            tokenizer = FastTokenizer.from_buffer(content)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def count(texts: list[str]) -> np.ndarray:
        tokenizer = loaded()
        with reading(name, "a tokenizer"):
            encodings = tokenizer.encode_batch_fast(texts)
        return np.fromiter(map(len, encodings), dtype=np.int64, count=len(texts))

    return Tokenization(count, _key(content))


def _key(content: bytes) -> str:
    try:
        library = version("tokenizers")
    except PackageNotFoundError:
        library = "none"
    return f"{library}-{hashlib.blake2b(content, digest_size=16).hexdigest()}"


def _of_function(function: Callable[[list[str]], Any]) -> Tokenization:
    def count(texts: list[str]) -> np.ndarray:
        result = function(texts)
        try:
            counts = np.asarray(result)
        except ValueError:
            counts = np.empty(0)
        if counts.shape != (len(texts),) or counts.dtype.kind not in "iu" or counts.min() < 0:
            raise SourceError(
                f"The tokenizer function returned {one_line(repr(result), 80)} for {len(texts):,} "
                "texts; expected the number of tokens of each, as a list of as many integers. For "
                "a function that returns ids: lambda texts: [len(ids) for ids in tokenize(texts)]"
            )
        return counts.astype(np.int64)

    return Tokenization(count, None)
