"""Goes in: a text. Comes out: the same text with wrongly decoded characters put right, where that is beyond doubt.

"cafÃ©" becomes "café": ftfy (Speer 2019) undoes the decoding that made it, if the result is surely better. Its other
changes, which are matters of taste (straight quotation marks, ligatures, HTML entities, full-width letters), are off.
"""

from __future__ import annotations

from functools import cache
from typing import Any


def repair(text: str) -> str:
    """The text without mojibake; one of ASCII alone is left as it is."""
    if text.isascii():
        return text
    import ftfy

    repaired: str = ftfy.fix_text(text, _configuration())
    return repaired


@cache
def _configuration() -> Any:
    from ftfy import TextFixerConfig

    return TextFixerConfig(
        unescape_html=False,
        uncurl_quotes=False,
        fix_latin_ligatures=False,
        fix_character_width=False,
        fix_line_breaks=False,
        remove_terminal_escapes=False,
        remove_control_chars=False,
        normalization=None,
        explain=False,
    )
