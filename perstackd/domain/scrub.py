"""A net for secret values in text: which forms of a value are looked for, and how they are taken out.

Pure and fast where nothing is found: each form is looked for by itself, which CPython does at memory speed (12 forms in
1 KB take 2 microseconds, one compiled alternation of them 30). It is a net and not a boundary: a program that wants a
value to pass encodes it in another way.
"""

import base64
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Final, NamedTuple
from urllib.parse import quote, quote_plus

MIN_BYTES: Final = 8
"""Shorter values would be found in what has nothing to do with them."""
_HEAD: Final = 16
_LABEL: Final = 64
_COMPONENT: Final = "!'()*"  # what JavaScript's encodeURIComponent leaves as it is
_PERCENT: Final = re.compile(r"%[0-9A-F]{2}")
_MARKUP: Final = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})


class Match(NamedTuple):
    """A form of a value in a text."""

    start: int
    end: int
    label: str


@dataclass(frozen=True, slots=True)
class Net:
    """The forms that are looked for, longest first, and what stands in the place of each. Made by `net`.

    `heads` are their first characters with the length of the longest form that begins so; `beginnings` all beginnings
    of those.
    """

    labels: Mapping[str, str] = field(repr=False)
    heads: Mapping[str, int] = field(repr=False)
    beginnings: frozenset[str] = field(repr=False)
    shortest: int

    def __bool__(self) -> bool:
        return bool(self.labels)

    def text(self, text: str) -> str:
        """Without the values; the same object when there is none in it."""
        if len(text) < self.shortest:
            return text
        found = [form for form in self.labels if form in text]
        return _either(found).sub(lambda match: self.labels[match[0]], text) if found else text

    def matches(self, text: str) -> Iterator[Match]:
        """In order; the longest of those that begin at one place. They do not overlap."""
        found = [form for form in self.labels if form in text]
        for match in _either(found).finditer(text) if found else ():
            yield Match(match.start(), match.end(), self.labels[match[0]])

    def fed(self, held: str, text: str) -> tuple[str, str]:
        """More of a stream: what may pass of `held` and `text` together, and what is held until more is known.

        Held back is the end of the stream from where a form may have begun, less than the longest form. At a stream's
        end what is held passes through `text`.
        """
        whole = held + text
        cut, done, passed = self._doubtful(whole), 0, list[str]()
        for match in self.matches(whole):
            if match.start >= cut:
                break
            passed += (whole[done : match.start], match.label)
            done = match.end
        cut = max(cut, done)
        passed.append(whole[done:cut])
        return "".join(passed), whole[cut:]

    def _doubtful(self, whole: str) -> int:
        """Where the first form may have begun that the text's end has cut off. Only a form's first characters are
        compared, so that a long value costs no more than a short one; what is held too long passes later.
        """
        size = len(whole)
        cut = next((at for at in range(max(0, size - _HEAD + 1), size) if whole[at:] in self.beginnings), size)
        for head, longest in self.heads.items():
            at = whole.find(head, max(0, size - longest + 1))
            if at >= 0:
                cut = min(cut, at)
        return cut


NOTHING: Final = Net({}, {}, frozenset(), 0)


def net(values: Mapping[str, str]) -> Net:
    """The net of some values; `values` maps each to its name. Values of fewer than `MIN_BYTES` bytes are left out."""
    return _net({form: _label(name) for value, name in values.items() for form in forms(value)})


def net_of_bytes(values: Mapping[str, str]) -> Net:
    """The same for bytes that were decoded as Latin-1, which keeps their number."""
    return _net(
        {
            form.encode("utf-8", "replace").decode("latin-1"): _label(name)
            for value, name in values.items()
            for form in forms(value)
        }
    )


def forms(value: str) -> frozenset[str]:
    """The value itself, its base64 in the three alignments (both alphabets, only characters that depend on nothing but
    the value), percent-encoded, and as JSON writes it, also within a JSON text that is itself a string.
    """
    data = value.encode("utf-8", "replace")
    if len(data) < MIN_BYTES:
        return frozenset()
    return frozenset({value, *_base64(data), *_percent(value), *_json(value)})


def _base64(data: bytes) -> Iterator[str]:
    for shift in range(3):
        digits = base64.b64encode(b"\0" * shift + data).decode()
        whole = digits[ceil(8 * shift / 6) : 8 * (shift + len(data)) // 6]
        yield whole
        yield whole.replace("+", "-").replace("/", "_")


def _percent(value: str) -> Iterator[str]:
    encodable = value.encode("utf-8", "replace")
    for form in (quote(encodable, safe=""), quote(encodable), quote(encodable, safe=_COMPONENT), quote_plus(encodable)):
        yield form
        yield _PERCENT.sub(lambda match: match[0].lower(), form)


def _json(value: str) -> Iterator[str]:
    for form in (_quoted(value), json.dumps(value)[1:-1]):
        for written in (form, form.replace("/", "\\/"), form.translate(_MARKUP)):
            yield written
            yield _quoted(written)


def _label(name: str) -> str:
    return f"[secret {name[:_LABEL]}]"  # bounded: what stands for a value may stand there very often


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _net(labels: Mapping[str, str]) -> Net:
    ordered = {form: labels[form] for form in sorted(labels, key=lambda form: (-len(form), form))}
    heads: dict[str, int] = {}
    for form in ordered:
        heads.setdefault(form[:_HEAD], len(form))  # the longest comes first
    beginnings = frozenset(head[:size] for head in heads for size in range(1, len(head)))
    return Net(ordered, heads, beginnings, min(map(len, ordered), default=0))


def _either(found: list[str]) -> re.Pattern[str]:
    """Alternatives are tried in order: the longest first."""
    return re.compile("|".join(map(re.escape, found)))
