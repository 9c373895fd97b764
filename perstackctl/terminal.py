"""Text that others wrote, made harmless for a terminal.

Models, tools and definitions can hold escape sequences: they would move the cursor, retitle the window, fill the
clipboard or hide what was really run. Whatever perstackctl shows to a person goes through `clean` or `line`.
"""

import re
import unicodedata
from typing import Final

# Whole sequences first, so that their parameters do not stay behind as litter: CSI, then OSC/DCS/SOS/PM/APC up to
# their terminator (at most 4,096 characters: an unterminated one must not swallow the text), then two-character ones.
# See ECMA-48, sections 5.3 to 5.6.
_SEQUENCES: Final = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]{0,4096}(?:\x07|\x1b\\|\x9c)"
    r"|\x1b[ -/]*[0-Z\\^-~]"
)
# C0 without tab and line feed, DEL, C1; bidirectional overrides, isolates and marks; line and paragraph separators;
# invisible tag characters; lone surrogates, which no terminal can take.
_CONTROLS: Final = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f"
    r"\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\U000e0000-\U000e007f\ud800-\udfff]"
)
_ESCAPED: Final = re.compile(
    r"[\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\U000e0000-\U000e007f]"
)
_BLANKS: Final = re.compile(r"\s+")


def clean(text: str) -> str:
    """The text without escape sequences and control characters; line ends and tabs stay."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _CONTROLS.sub("", _SEQUENCES.sub("", text))


def visible(text: str) -> str:
    """The text with what would act on a terminal written out as escapes, so that nothing of it is hidden.

    For what a person decides on; line ends and tabs stay.
    """
    return _CONTROLS.sub(lambda match: match.group().encode("unicode_escape").decode("ascii"), text)


def line(text: str, longest: int = 0) -> str:
    """The text as one clean line, cut to `longest` characters with an ellipsis; 0 means not cut."""
    # Cut before cleaning as well: a tool's megabytes are not scanned for one line.
    head = text[: longest * 8] if longest else text
    one = _BLANKS.sub(" ", clean(head)).strip()
    if not longest or (len(one) <= longest and len(head) == len(text)):
        return one
    return one[: longest - 1] + "…" if len(one) >= longest else one + "…"


def escaped_json(text: str) -> str:
    """A JSON document with the same value whose strings hold nothing that acts on a terminal."""
    return _ESCAPED.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    units = match.group().encode("utf-16-be")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def width(text: str) -> int:
    """Columns that a clean text takes."""
    if text.isascii():
        return len(text)
    return sum(map(_columns, text))


def _columns(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if unicodedata.east_asian_width(char) in {"W", "F"} else 1
