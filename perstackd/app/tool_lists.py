"""What skills' servers offered when they were last up, so that a run need not wait for them before its first turn.

Kept in memory, for as many as there is room: after a restart the first run of an expert waits once.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from perstackd.domain.ids import TenantId
from perstackd.domain.messages import ToolSpec

MAX_LISTS: Final = 512
MAX_CHARACTERS: Final = 32 << 20
"""Of all lists: a server may make one of a mebibyte."""


@dataclass(frozen=True, slots=True)
class ListKey:
    """Whose server: the tenant, the definition that it is in, the expert, the skill."""

    tenant: TenantId
    definition_digest: str
    expert_key: str
    skill: str


@dataclass(frozen=True, slots=True)
class ToolList:
    """A server and its tools."""

    server_name: str
    server_version: str
    tools: tuple[ToolSpec, ...]


class ToolLists:
    """The last list of each skill."""

    def __init__(self) -> None:
        self._lists: OrderedDict[ListKey, tuple[ToolList, int]] = OrderedDict()
        self._size = 0

    def get(self, key: ListKey) -> ToolList | None:
        """What the skill's server offered when it was last up."""
        found = self._lists.get(key)
        if found is not None:
            self._lists.move_to_end(key)
        return found[0] if found is not None else None

    def put(self, key: ListKey, tools: ToolList) -> None:
        """Keep it; the longest unused ones make room."""
        known = self._lists.pop(key, None)
        if known is not None and known[0] == tools:  # as nearly always
            self._lists[key] = known
            return
        size = len(repr(tools))
        self._lists[key] = (tools, size)
        self._size += size - (known[1] if known is not None else 0)
        while len(self._lists) > 1 and (len(self._lists) > MAX_LISTS or self._size > MAX_CHARACTERS):
            _, (_, freed) = self._lists.popitem(last=False)
            self._size -= freed
