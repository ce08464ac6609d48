"""Findings that were checked by hand: what was compared with what, and what came out."""

CHECKED: dict[tuple[str, str], str] = {}
"""(script, finding) → how it was checked, as a sentence."""
