"""Permutations without a table: the entry at any place is computed from a key.

Functions of single numbers and of arrays give the same.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import overload

import numpy as np

from batchwright._random import BitArray, generator, random_bits

_ALL = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_C1, _C2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB

_ROUNDS = 6
_BLOCK = 1 << 14
_SIDES = 16

# The same as numbers of NumPy, with which its arrays are quicker to compute.
_M1, _M2, _GOLD = (np.uint64(number) for number in (_C1, _C2, _GOLDEN))
_LOW = np.uint64(0xFFFFFFFF)
_27, _30, _31, _32 = (np.uint64(number) for number in (27, 30, 31, 32))
_STEPS = [np.uint64(number * _GOLDEN & _ALL) for number in range(_ROUNDS)]

PRIMES = np.array(
    [
        *(
            1073741827,
            1090531411,
            1107321031,
            1124110517,
            1140900097,
            1157689649,
            1174479211,
            1191268789,
        ),
        *(
            1208058347,
            1224847873,
            1241637437,
            1258427033,
            1275216599,
            1292006129,
            1308795679,
            1325585249,
        ),
        *(
            1342374821,
            1359164371,
            1375953983,
            1392743501,
            1409533063,
            1426322659,
            1443112183,
            1459901749,
        ),
        *(
            1476691291,
            1493480851,
            1510270417,
            1527059981,
            1543849537,
            1560639097,
            1577428663,
            1594218221,
        ),
        *(
            1611007799,
            1627797337,
            1644586903,
            1661376463,
            1678166023,
            1694955601,
            1711745143,
            1728534727,
        ),
        *(
            1745324267,
            1762113877,
            1778903407,
            1795693013,
            1812482509,
            1829272127,
            1846061669,
            1862851229,
        ),
        *(
            1879640783,
            1896430343,
            1913219897,
            1930009451,
            1946799007,
            1963588619,
            1980378143,
            1997167699,
        ),
        *(
            2013957251,
            2030746811,
            2047536397,
            2064325931,
            2081115511,
            2097905059,
            2114694619,
            2131484171,
        ),
    ],
    dtype=np.uint64,
)
"""Primes between 2**30 and 2**31: times any of them, places of up to 2**30 only change places."""

SMALL = 256
"""Below so many entries a permutation is drawn by ranking hashes: Feistel networks are biased."""


def key_of(seed: int, purpose: str, *keys: int) -> int:
    """Return 64 random bits that belong to a seed, a purpose and further integers.

    Example:
        >>> key_of(0, "rungs", 1) == key_of(0, "rungs", 1) != key_of(0, "rungs", 2)
        True
    """
    return int(random_bits(generator(seed, purpose, *keys), 1)[0])


def hash_of(content: bytes) -> str:
    """Hash bytes to 32 hexadecimal digits."""
    import hashlib  # not for free, and rarely needed

    return hashlib.sha256(content).hexdigest()[:32]


@overload
def mixed(bits: int) -> int: ...
@overload
def mixed(bits: BitArray) -> BitArray: ...
def mixed(bits: int | BitArray) -> int | BitArray:
    """Hash 64 bits to 64 bits, one to one.

    Source: D. Lea, G. Steele, C. Flood, *Fast Splittable Pseudorandom Number Generators*, 2014
    (the finalizer of SplitMix64, with the constants of D. Stafford).
    """
    if isinstance(bits, int):
        bits = ((bits ^ (bits >> 30)) * _C1) & _ALL
        bits = ((bits ^ (bits >> 27)) * _C2) & _ALL
        return bits ^ (bits >> 31)
    bits = bits ^ (bits >> _30)
    bits *= _M1
    bits ^= bits >> _27
    bits *= _M2
    bits ^= bits >> _31
    return bits


@overload
def hashed(numbers: int, key: int) -> int: ...
@overload
def hashed(numbers: BitArray, key: int | BitArray) -> BitArray: ...
def hashed(numbers: int | BitArray, key: int | BitArray) -> int | BitArray:
    """Hash numbers under a key; different numbers have different hashes.

    Example:
        >>> hashed(3, 7) == int(hashed(np.array([3], np.uint64), 7)[0])
        True
    """
    if isinstance(numbers, int):
        return mixed((numbers * _GOLDEN + int(key)) & _ALL)
    return mixed(numbers * _GOLD + (np.uint64(key) if isinstance(key, int) else key))


def scaled(words: BitArray, size: BitArray | np.uint64) -> BitArray:
    """Turn the low 32 of random bits into numbers below `size`, at most 2**32."""
    low: BitArray = words & _LOW
    low *= size
    low >>= _32
    return low


def permuted(place: int, size: int, key: int) -> int:
    """Return where a random permutation of ``range(size)`` takes a place; each key is another one.

    O(1). Below 256 entries hashes are ranked, which is exact; above, a Feistel network of six
    rounds on a grid just larger than `size`.

    Source: J. Black, P. Rogaway, *Ciphers with Arbitrary Finite Domains*, 2002 (generalized
    Feistel and cycle walking).

    Example:
        >>> sorted(permuted(place, 5, 42) for place in range(5))
        [0, 1, 2, 3, 4]
    """
    if size < SMALL:
        hashes = hashed(np.arange(size, dtype=np.uint64), key)
        return int(np.count_nonzero(hashes < hashes[place]))
    while True:
        place = _network(place, size, key)
        if place < size:
            return place


def all_permuted(places: BitArray, size: int, keys: int | BitArray) -> BitArray:
    """Return what `permuted` does, for many places; with one key for all, or one for each."""
    if isinstance(keys, int):
        keys = np.array([keys], dtype=np.uint64)
    out = np.empty_like(places)
    together = SMALL if size < SMALL else _BLOCK  # so that temporaries stay in the cache
    for start in range(0, places.size, together):
        block = slice(start, start + together)
        own = keys if keys.size == 1 else keys[block]
        if size < SMALL:
            hashes = hashed(np.arange(size, dtype=np.uint64)[None, :], own[:, None])
            mine = hashed(places[block], own)
            out[block] = np.count_nonzero(hashes < mine[:, None], axis=1)
            continue
        found = _networks(places[block], size, own)
        for at in np.flatnonzero(found >= size).tolist():  # few, as the grid is hardly larger
            found[at] = permuted(int(found[at]), size, int(own[at if own.size > 1 else 0]))
        out[block] = found
    return out


@lru_cache(maxsize=64)
def _grid(size: int) -> tuple[int, int]:
    """Return the sides of a grid that is nearly square and hardly larger than `size`."""
    least = math.isqrt(size - 1) + 1
    side = min(range(least, least + _SIDES), key=lambda side: -size % side)
    return side, -(-size // side)


def _network(place: int, size: int, key: int) -> int:
    sides = _grid(size)
    halves = list(divmod(place, sides[1]))
    for number in range(_ROUNDS):
        into = number % 2
        words = ((halves[1 - into] + key + number * _GOLDEN) * _C1) & _ALL
        words = ((words ^ (words >> 32)) * _C2) & _ALL
        halves[into] = (halves[into] + (((words >> 32) * sides[into]) >> 32)) % sides[into]
    return halves[0] * sides[1] + halves[1]


def _networks(places: BitArray, size: int, keys: BitArray) -> BitArray:
    sides = [np.uint64(side) for side in _grid(size)]
    high = places // sides[1]
    halves: list[BitArray] = [high, places - high * sides[1]]
    for number in range(_ROUNDS):
        into = number % 2
        words: BitArray = halves[1 - into] + (keys + _STEPS[number])
        words *= _M1
        words ^= words >> _32
        words *= _M2
        words >>= _32
        words *= sides[into]
        words >>= _32
        words += halves[into]
        words -= (words >= sides[into]) * sides[into]
        halves[into] = words
    halves[0] *= sides[1]
    halves[0] += halves[1]
    return halves[0]
