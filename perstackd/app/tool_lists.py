"""What skills' servers offered when they were last up, so that a run need not wait for them before its first turn.

Kept in memory, for as many as there is room: after a restart the first run of an expert waits once.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from perstackd.domain.ids import TenantId
from perstackd.domain.messages import ToolSpec

MAX_LISTS: Final = 512
MAX_TOOLS: Final = 20_000


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
        self._lists: OrderedDict[ListKey, ToolList] = OrderedDict()

    def get(self, key: ListKey) -> ToolList | None:
        """What the skill's server offered when it was last up."""
        found = self._lists.get(key)
        if found is not None:
            self._lists.move_to_end(key)
        return found

    def put(self, key: ListKey, tools: ToolList) -> None:
        """Keep it; the longest unused ones make room."""
        self._lists[key] = tools
        self._lists.move_to_end(key)
        while len(self._lists) > MAX_LISTS or sum(len(each.tools) for each in self._lists.values()) > MAX_TOOLS:
            if len(self._lists) == 1:
                return
            self._lists.popitem(last=False)
