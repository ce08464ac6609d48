"""The characters that reports are drawn with, for terminals that have them and that do not."""

from dataclasses import dataclass

from batchwright.typing import FloatArray


@dataclass(frozen=True)
class Glyphs:
    """One set of characters.

    Attributes:
        rising: From an empty cell to a full one, filled from below.
        filling: The same, filled from the left.
        rest: The part of a bar that is not filled.
        times: Multiplied by.
        spread: Plus or minus.
        dot: Between words of one line.
    """

    rising: str
    filling: str
    rest: str
    times: str
    spread: str
    dot: str

    def bar(self, share: float, width: int) -> tuple[str, str]:
        """Draw a share as a bar: the filled part, and the rest.

        Only a share of 1 fills all of it, and only a share of 0 nothing.

        Args:
            share: From 0 to 1.
            width: Characters, at least 2.

        Returns:
            Two strings, `width` characters together.

        Example:
            >>> ASCII.bar(0.75, 8)
            ('######', '..')
        """
        fine = len(self.filling) - 1
        filled = int(share * width * fine)
        if 0 < share < 1:
            filled = min(max(filled, 1), width * fine - 1)
        whole, part = divmod(filled, fine)
        drawn = self.filling[-1] * whole + (self.filling[part] if part else "")
        return drawn, self.rest * (width - len(drawn))

    def curve(self, heights: FloatArray, rows: int) -> list[str]:
        """Draw heights as columns that stand side by side.

        Only a height of 0 is left empty.

        Args:
            heights: float64[w], from 0 to 1.
            rows: Lines, at least 1.

        Returns:
            `rows` strings of w characters, the top one first.

        Example:
            >>> import numpy as np
            >>> ASCII.curve(np.array([0.0, 0.5, 1.0]), 2)
            ['  #', ' ##']
        """
        fine = len(self.rising) - 1
        filled = [max(round(height * rows * fine), height > 0) for height in heights.tolist()]
        return [
            "".join(self.rising[min(max(level - row * fine, 0), fine)] for level in filled)
            for row in reversed(range(rows))
        ]


UNICODE = Glyphs(" ▁▂▃▄▅▆▇█", " ▏▎▍▌▋▊▉█", "░", "×", "±", "·")
ASCII = Glyphs(" .:#", " #", ".", "x", "+-", "-")


def glyphs_for(encoding: str) -> Glyphs:
    """Choose the characters that an encoding has.

    Args:
        encoding: Such as ``"utf-8"``.

    Returns:
        `UNICODE` where all of it can be written, else `ASCII`.

    Example:
        >>> glyphs_for("utf-8") is UNICODE, glyphs_for("latin-1") is ASCII
        (True, True)
    """
    everything = "".join(vars(UNICODE).values())
    try:
        everything.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return UNICODE
