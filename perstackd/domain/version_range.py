"""Versions and ranges as references write them, with npm's meaning (https://semver.org, node-semver's grammar):
`1.2.3`, `1.x`, `^1.2`, `~1.2.0`, `>=1.2.0 <2`, `1.2.0 - 1.4`, and alternatives with `||`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

_PART: Final = r"0|[1-9][0-9]{0,8}"
_LABELS: Final = r"[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*"
_PARTIAL: Final = re.compile(
    rf"v?({_PART}|[xX*])(?:\.({_PART}|[xX*])(?:\.({_PART}|[xX*])(?:-({_LABELS}))?(?:\+{_LABELS})?)?)?", re.ASCII
)
_COMPARATOR: Final = re.compile(r"(\^|~|>=|<=|>|<|=|)\s*(\S+)")
_HYPHEN: Final = re.compile(r"(\S+)\s+-\s+(\S+)")
_SPACE_AFTER: Final = re.compile(r"(\^|~|>=|<=|>|<|=)\s+")

Release: TypeAlias = "tuple[int, int, int]"
_Order: TypeAlias = "tuple[Release, bool, tuple[tuple[int, int, str], ...]]"


@dataclass(frozen=True, slots=True)
class Version:
    """`labels` are those of a pre-release; without any it is a release, and newer than its pre-releases."""

    release: Release
    labels: tuple[str, ...] = ()

    @property
    def order(self) -> _Order:
        """Compares as semver's precedence: numbers before words, a shorter list of labels before a longer one."""
        ranked = tuple((0, int(label), "") if label.isdecimal() else (1, 0, label) for label in self.labels)
        return self.release, not self.labels, ranked


_Bound: TypeAlias = "tuple[str, Version]"
_HOLDS: Final[dict[str, Callable[[_Order, _Order], bool]]] = {
    ">=": lambda have, bound: have >= bound,
    ">": lambda have, bound: have > bound,
    "<=": lambda have, bound: have <= bound,
    "<": lambda have, bound: have < bound,
    "=": lambda have, bound: have == bound,
}


@dataclass(frozen=True, slots=True)
class VersionRange:
    """Alternatives, each a set of bounds that all have to hold."""

    alternatives: tuple[tuple[_Bound, ...], ...]

    def has(self, version: Version) -> bool:
        """A pre-release only when a bound names a pre-release of the same version."""
        return any(_all_hold(bounds, version) for bounds in self.alternatives)


def parse_version(text: str) -> Version | None:
    """An exact version; None when it is none."""
    found = _partial(text)
    return found[0] if found and found[1] == 3 else None


def parse_range(text: str) -> VersionRange | None:
    """A range; None when it is none."""
    alternatives = []
    for part in text.split("||"):
        bounds = _bounds(part.strip())
        if bounds is None:
            return None
        alternatives.append(bounds)
    return VersionRange(tuple(alternatives))


def _all_hold(bounds: tuple[_Bound, ...], version: Version) -> bool:
    if not all(_HOLDS[sign](version.order, bound.order) for sign, bound in bounds):
        return False
    named = any(bound.labels and bound.release == version.release for _, bound in bounds)
    return not version.labels or named


def _bounds(text: str) -> tuple[_Bound, ...] | None:
    if hyphen := _HYPHEN.fullmatch(text):
        low, high = _comparator(">=", hyphen[1]), _comparator("<=", hyphen[2])
        return None if low is None or high is None else (*low, *high)
    found: list[_Bound] = []
    for word in _SPACE_AFTER.sub(r"\1", text).split() or ["*"]:
        match = _COMPARATOR.fullmatch(word)
        more = _comparator(match[1], match[2]) if match else None
        if more is None:
            return None
        found.extend(more)
    return tuple(found)


def _partial(text: str) -> tuple[Version, int] | None:
    """A version with zeros for what is left out, and how many of its numbers are said."""
    match = _PARTIAL.fullmatch(text)
    if match is None:
        return None
    numbers = [int(part) if part and part not in "xX*" else None for part in match.group(1, 2, 3)]
    said = next((place for place, number in enumerate(numbers) if number is None), 3)
    release = [number if place < said and number else 0 for place, number in enumerate(numbers)]
    labels = tuple(match[4].split(".")) if match[4] and said == 3 else ()
    return Version((release[0], release[1], release[2]), labels), said


def _comparator(sign: str, text: str) -> tuple[_Bound, ...] | None:
    found = _partial(text)
    if found is None:
        return None
    version, said = found
    match sign:
        case "^":
            leading = next((place for place, number in enumerate(version.release) if number), 2)
            return _between(version, min(leading, max(said, 1) - 1) if said else -1)
        case "~":
            return _between(version, min(said, 2) - 1)
        case ">" | "<=" if said < 3:
            return _past(sign, version, said)
        case "" | "=" if said < 3:
            return _between(version, said - 1)
        case _:
            return ((sign or "=", version),)


def _past(sign: str, version: Version, said: int) -> tuple[_Bound, ...]:
    """`>1.2` begins after all of 1.2, and `<=1.2` ends there; of `*` nothing is left, or all."""
    if not said:
        return (("<", _before((0, 0, 0))),) if sign == ">" else ()
    after = _raised(version.release, said - 1)
    return ((">=", Version(after)),) if sign == ">" else (("<", _before(after)),)


def _between(version: Version, fixed: int) -> tuple[_Bound, ...]:
    """From `version` up to where the number at `fixed` changes; without a fixed one all."""
    return ((">=", version), ("<", _before(_raised(version.release, fixed)))) if fixed >= 0 else ()


def _raised(release: Release, place: int) -> Release:
    numbers = [*release[:place], release[place] + 1, 0, 0]
    return numbers[0], numbers[1], numbers[2]


def _before(release: Release) -> Version:
    """Below all pre-releases of it."""
    return Version(release, ("0",))
