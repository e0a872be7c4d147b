"""Names and messages as a terminal can show them."""

from __future__ import annotations

import re

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # which move the cursor, ring, or colour what follows


def printable(text: object) -> str:
    """Text with bytes that are no UTF-8, line breaks or control characters as one harmless line."""
    return CONTROL.sub("?", " ".join(str(text).encode("utf-8", "replace").decode().splitlines()))
