"""Makes the README of a release: an index has none of the files that its links lead to."""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

IMAGE = re.compile(r"!\[([^\]]*)\]\((?!https?:)([^)\s]+)\)")
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!https?:|#)([^)\s]+)\)")


def readme_for_an_index(text: str, address: str | None = None) -> str:
    """Make links absolute; without an address to lead to, leave what they say.

    Args:
        text: Markdown, with links relative to the top of the repository.
        address: Where its files are, as ``https://HOST/OWNER/NAME/blob/main``.
    """
    if address is None:
        return LINK.sub(r"\1", IMAGE.sub("", text))
    return LINK.sub(rf"[\1]({address}/\2)", IMAGE.sub(rf"![\1]({address}/\2?raw=true)", text))


class ReadmeHook(MetadataHookInterface):
    """Sets ``readme``, which pyproject.toml names dynamic."""

    PLUGIN_NAME = "custom"

    def update(self, metadata: dict[str, Any]) -> None:
        """Read README.md and write its links anew."""
        source = metadata.get("urls", {}).get("Source")
        address = None if source is None else f"{source}/blob/main"
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        text = readme_for_an_index(text, address)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
