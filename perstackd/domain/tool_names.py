"""The names by which a model sees its tools: `[A-Za-z0-9_-]`, at most 64 characters, first a letter, each once.

Base tools and delegates keep their names and a skill's tool yields, so what a model knows as `exec` is always the
built-in one, whatever a server calls its tools.
"""

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeVar

MAX_NAME: Final = 64

_FOREIGN: Final = re.compile(r"[^A-Za-z0-9_-]")
_HASH_LENGTH: Final = 6
_Key = TypeVar("_Key")


class Origin(StrEnum):
    """Where a tool comes from."""

    BASE = "base"
    DELEGATE = "delegate"
    SKILL = "skill"


@dataclass(frozen=True, slots=True)
class NamedTool:
    """A tool by its `shown` name. `source` is the delegate's reference or the skill's name, empty for a base tool;
    `tool` is its name at its owner, empty for a delegate."""

    shown: str
    origin: Origin
    source: str
    tool: str


def name_tools(
    base: Sequence[str], delegates: Sequence[str], skills: Sequence[tuple[str, str]]
) -> tuple[NamedTool, ...]:
    """The shown names of an expert's tools, sorted. `delegates` are references as the expert writes them, `skills` are
    (skill, tool) pairs. Repeated entries count once. The result does not depend on the order of the arguments.
    """
    named = [NamedTool(tool, Origin.BASE, "", tool) for tool in sorted(set(base))]
    taken = {tool.shown for tool in named}
    for reference, shown in _delegate_names(sorted(set(delegates)), taken).items():
        named.append(NamedTool(shown, Origin.DELEGATE, reference, ""))
        taken.add(shown)
    for (skill, tool), shown in _skill_names(sorted(set(skills)), taken).items():
        named.append(NamedTool(shown, Origin.SKILL, skill, tool))
    return tuple(sorted(named, key=lambda tool: tool.shown))


def without_version(reference: str) -> str:
    """The key in a reference: `@scope/name@1.2.0` is `@scope/name`."""
    name, at, _ = reference.rpartition("@")
    return name if at and name else reference


def _delegate_names(references: Iterable[str], taken: set[str]) -> dict[str, str]:
    """The last path segment; the scope is kept on a clash, and a clash even so ends in a hash."""
    short = {reference: _legal(without_version(reference).rpartition("/")[2]) for reference in references}
    counts = Counter(short.values())
    names = {}
    for reference, name in short.items():
        key = without_version(reference)
        clashes = counts[name] > 1 or name in taken
        names[reference] = _legal(key.removeprefix("@").replace("/", "_")) if clashes and "/" in key else name
    return _distinct({reference: (reference, name) for reference, name in names.items()}, taken)


def _skill_names(pairs: Iterable[tuple[str, str]], taken: set[str]) -> dict[tuple[str, str], str]:
    return _distinct({(skill, tool): (f"{skill}\0{tool}", _legal(tool)) for skill, tool in pairs}, taken)


def _distinct(wanted: dict[_Key, tuple[str, str]], taken: set[str]) -> dict[_Key, str]:
    """(identity, name) into names that are short enough, free, and wanted by one only; the others get a hash."""
    counts = Counter(name for _, name in wanted.values())
    free = {
        key: name
        for key, (_, name) in wanted.items()
        if len(name) <= MAX_NAME and counts[name] == 1 and name not in taken
    }
    used = taken | set(free.values())
    for key, (identity, name) in wanted.items():
        if key not in free:
            free[key] = _hashed(identity, name, used)
            used.add(free[key])
    return free


def _hashed(identity: str, name: str, used: set[str]) -> str:
    """Ends: 24 bits of hash run out long after the tools of one expert do."""
    for attempt in itertools.count():
        digest = hashlib.sha256(f"{identity}\0{attempt}".encode()).hexdigest()[:_HASH_LENGTH]
        candidate = f"{name[: MAX_NAME - _HASH_LENGTH - 1]}_{digest}"
        if candidate not in used:
            return candidate
    raise AssertionError


def _legal(name: str) -> str:
    """Other characters become `_`; a name that does not begin with a letter gets `t_` before it."""
    legal = _FOREIGN.sub("_", name)
    return legal if legal[:1].isalpha() else f"t_{legal}"
