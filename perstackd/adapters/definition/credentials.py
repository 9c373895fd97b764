"""Literals that look like keys: a definition is committed and shared, a key is not."""

import re
from typing import Final

# Prefixes that vendors gave their keys so that they can be found.
_KNOWN: Final = re.compile(
    r"\b(?:sk-[A-Za-z0-9_-]{16}|gh[pousr]_\w{16}|github_pat_\w{16}|glpat-[\w-]{16}|xox[abprs]-[A-Za-z0-9-]{10}"
    r"|(?:hf|npm|shpat|dop_v1)_\w{16}|A(?:KIA|SIA)[A-Z0-9]{16}|AIza[\w-]{30}|eyJ[\w-]{8,}\.eyJ[\w-]{8})"
)
_HEADERS: Final = re.compile(r"(?i)(?:proxy-)?authorization|cookie|(?:.*[-_])?(?:api-?key|token|secret|password)")
_SCHEME: Final = re.compile(r"(?i)(?:basic|bearer|token)\b")
_LONG: Final = re.compile(r"[A-Za-z0-9+_=]{32,}")
_REFERENCE: Final = re.compile(r"\$\{[^}]*\}")


def looks_like_key(header: str, value: str) -> bool:
    """Whether the value of a header has a literal that should be a secret. `${NAME}` stands for one and is none."""
    literal = _REFERENCE.sub(" ", value)
    if _KNOWN.search(literal) or any(map(_is_mixed, _LONG.findall(literal))):
        return True
    return literal == value and bool(_HEADERS.fullmatch(header) and _SCHEME.sub("", value).strip())


def _is_mixed(word: str) -> bool:
    return any(char.isdigit() for char in word) and any(char.isalpha() for char in word)
