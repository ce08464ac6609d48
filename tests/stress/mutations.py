"""Ways to damage the bytes of a file, whatever they mean."""

import bz2
import gzip
import lzma
import re

import numpy as np

WORDS = (
    *(b"-1", b"0", b"1", b"2", b"1.5", b"1e999", b"NaN", b"-Infinity", b"null", b"true", b'""', b"[]"),
    *(b"{}", b"''", b"\xff\xfe", b"\0", b"\xed\xa0\x80", b"9" * 400, b"[" * 5_000, b'{"a":' * 5_000),
    *(str(sign * 2**power + more).encode() for power in (31, 53, 63, 64) for sign in (1, -1) for more in (-1, 0)),
    *(str(10**power).encode() for power in (8, 12, 18, 30)),
)  # fmt: skip
"""What numbers and words of a file are replaced by."""


def flip_bits(content, rng):
    changed = bytearray(content)
    for place in rng.integers(len(changed), size=rng.integers(1, 9)) if changed else ():
        changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def set_bytes(content, rng):
    begin, end = _span(content, rng, longest=16)
    return content[:begin] + rng.bytes(end - begin) + content[end:]


def cut_off(content, rng):
    return content[: rng.integers(len(content) + 1)]


def cut_head(content, rng):
    return content[rng.integers(len(content) + 1) :]


def remove(content, rng):
    begin, end = _span(content, rng)
    return content[:begin] + content[end:]


def repeat(content, rng):
    begin, end = _span(content, rng)
    return content[:end] + content[begin:end] * int(rng.integers(1, 9)) + content[end:]


def insert(content, rng):
    begin, _ = _span(content, rng)
    more = _word(rng) if rng.random() < 0.5 else rng.bytes(int(rng.integers(1, 64)))
    return content[:begin] + more + content[begin:]


def move(content, rng):
    (begin, end), rest = _span(content, rng), int(rng.integers(len(content) + 1))
    left = content[:begin] + content[end:]
    return left[:rest] + content[begin:end] + left[rest:]


def blank(content, rng):
    begin, end = _span(content, rng)
    filling = (b"\0", b"\xff", b" ", b"\n", b"9", b"[", b'"', b",")[rng.integers(8)]
    return content[:begin] + filling * (end - begin) + content[end:]


def append(content, rng):
    return content + (content, _word(rng), bytes(1000), rng.bytes(100))[rng.integers(4)]


def replace_number(content, rng):
    """Replace a number that is written in digits."""
    return _replace(rb"-?\d+(\.\d+)?", content, rng)


def replace_word(content, rng):
    """Replace a word, a name or a string in quotes."""
    return _replace(rb'"[^"\n]{0,40}"|[A-Za-z_]+', content, rng)


def replace_integer(content, rng):
    """Write another integer over four or eight bytes, as headers have them."""
    width = int(rng.choice([4, 8]))
    if len(content) < width:
        return content
    begin = int(rng.integers(min(len(content) - width + 1, 256)))
    choices = [0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**63, 2**64 - 1]
    value = choices[rng.integers(len(choices))] % 2 ** (8 * width)
    order = ("little", "big")[rng.integers(2)]
    return content[:begin] + value.to_bytes(width, order) + content[begin + width :]


def replace_all(content, rng):
    """Put something else in the place of the whole file."""
    size = int(rng.integers(1, 2_000))
    return (b"", _word(rng), rng.bytes(size), bytes(size), b"\n" * size)[rng.integers(5)]


def compress(content, rng):
    """Compress a file that its name says is not, or is: once more."""
    return (gzip, bz2, lzma)[rng.integers(3)].compress(content)


ALL = (
    *(flip_bits, set_bytes, cut_off, cut_head, remove, repeat, insert, move, blank, append),
    *(replace_number, replace_word, replace_integer, replace_all, compress),
)


def damaged(content, rng, mutations=ALL):
    """Apply one mutation, or now and then a few."""
    for _ in range(1 if rng.random() < 0.8 else int(rng.integers(2, 5))):
        content = mutations[rng.integers(len(mutations))](content, rng)
    return content


def odd_value(rng, depth=0):
    """Return a value that JSON can hold, and that is seldom what is expected."""
    values = [None, True, False, 0, -1, 1, 1.5, float("nan"), float("inf"), "", "x", "4", [], {}]
    values += [
        2**31,
        2**53,
        2**63 - 1,
        2**63,
        -(2**63),
        10**18,
        10**30,
        10**400,
        1e300,
        "\ud800\x1b[31m",
    ]
    choice = int(rng.integers(len(values) + 3))
    if choice < len(values):
        return values[choice]
    if depth > 2:
        return "[" * 100
    inside = [odd_value(rng, depth + 1) for _ in range(rng.integers(1, 4))]
    return inside if choice % 2 else dict(zip("abc", inside, strict=False))


def edited(value, rng):
    """Change one thing somewhere inside of a value of JSON: replace, remove or add."""
    if isinstance(value, dict | list) and value and rng.random() < 0.85:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = keys[rng.integers(len(keys))]
        copy = value.copy()
        action = rng.random()
        if action < 0.12:
            del copy[key]
        elif action < 0.2 and isinstance(copy, dict):
            copy[str(odd_value(rng, 3))[:50]] = odd_value(rng)
        elif action < 0.2:
            copy.insert(key, odd_value(rng))
        else:
            copy[key] = edited(value[key], rng)
        return copy
    if isinstance(value, int | float) and not isinstance(value, bool) and rng.random() < 0.5:
        return value + (1, -1, 0.5, 10**9)[rng.integers(4)]
    return odd_value(rng)


def edited_array(array, rng):
    """Change an array: a number, its size, its shape, or its type."""
    action = int(rng.integers(8))
    flat = np.array(array).ravel()
    if action == 0 or not flat.size:
        return np.append(flat, np.ones(1, flat.dtype))
    if action == 1:
        return flat[: rng.integers(flat.size)]
    if action == 2:
        return flat.reshape(1, -1)
    if action == 3:
        dtypes = ("int8", "int32", "uint64", "float32", "float64", "bool")
        with np.errstate(all="ignore"):
            return flat.astype(dtypes[rng.integers(len(dtypes))])
    if action == 4:
        return rng.permutation(flat)
    odd = [-1, 0, 1, 2, 100, 2**31, 2**63 - 1, -(2**63)]
    if flat.dtype.kind == "f":
        odd += [float("nan"), float("inf"), -0.5, 1e300]
    with np.errstate(all="ignore"):
        flat[rng.integers(flat.size)] = np.array(odd[rng.integers(len(odd))]).astype(flat.dtype)
    return flat


def _span(content, rng, longest=None):
    begin = int(rng.integers(len(content) + 1))
    most = len(content) - begin if longest is None else min(longest, len(content) - begin)
    return begin, begin + int(rng.integers(most + 1))


def _word(rng):
    return WORDS[rng.integers(len(WORDS))]


def _replace(pattern, content, rng):
    found = list(re.finditer(pattern, content[:1_000_000]))
    if not found:
        return content
    match = found[rng.integers(len(found))]
    return content[: match.start()] + _word(rng) + content[match.end() :]
