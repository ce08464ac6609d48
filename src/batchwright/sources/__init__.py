"""Lengths from files and datasets: `.npy`, Parquet, Arrow, JSON lines, CSV, Hugging Face.

Everything else in Batchwright takes an array of lengths; this folder is where such an array comes
from. `read_lengths` is all of its public face.
"""

from batchwright.sources.read import read_lengths

__all__ = ["read_lengths"]
