"""The digest by which a recorded turn is found again.

What belongs to it is what a model is told: the model's name, the reasoning asked for, the system prompt, the tools
(name, description, schema), what is asked for of the provider's own tools and skills, and the messages. What does not:
provider, base URL, headers, time-outs and the bound of the answer, which say how to reach a model and for how long;
and a tool's annotations, which no model sees. So a conversation that was recorded behind one proxy is replayed behind
another.
"""

import hashlib
import json
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from perstackd.adapters.models.conversation import message_json
from perstackd.domain.messages import Message, ModelRequest, ToolSpec

MESSAGES_KEPT: Final = 20_000
"""Bounds the histories that are held: a finished run's is dropped once this many newer messages were seen."""
HEADS_KEPT: Final = 256


@dataclass(frozen=True, slots=True)
class _Seen:
    """A history and the chain's value at its end; holding the messages keeps their identities from being reused."""

    head: bytes
    messages: tuple[Message, ...]
    chain: bytes


class Digester:
    """Digests of requests whose histories grow: only messages that were not in the last request of a run are hashed.

    The chain is head = sha256(canonical head), then sha256(chain + sha256(canonical message)) for each message.
    """

    def __init__(self, messages_kept: int = MESSAGES_KEPT) -> None:
        self._messages_kept = messages_kept
        self._held = 0
        self._seen: OrderedDict[int, _Seen] = OrderedDict()
        self._heads: OrderedDict[tuple[object, ...], tuple[tuple[ToolSpec, ...], bytes]] = OrderedDict()

    def digest(self, request: ModelRequest) -> str:
        """`sha256:HEX`, the same for equal requests whatever was asked before."""
        head = self._head(request)
        chain, done = self._known(head, request.messages)
        for message in request.messages[done:]:
            chain = hashlib.sha256(chain + _message_digest(message)).digest()
        self._remember(_Seen(head, request.messages, chain))
        return f"sha256:{chain.hex()}"

    def _known(self, head: bytes, messages: tuple[Message, ...]) -> tuple[bytes, int]:
        seen = self._seen.get(id(messages[0])) if messages else None
        if seen is None or seen.head != head or messages[: len(seen.messages)] != seen.messages:
            return head, 0
        return seen.chain, len(seen.messages)

    def _remember(self, seen: _Seen) -> None:
        if not seen.messages:
            return
        key = id(seen.messages[0])
        old = self._seen.pop(key, None)
        self._seen[key] = seen
        self._held += len(seen.messages) - (len(old.messages) if old else 0)
        while self._held > self._messages_kept and len(self._seen) > 1:
            _, dropped = self._seen.popitem(last=False)
            self._held -= len(dropped.messages)

    def _head(self, request: ModelRequest) -> bytes:
        """Found again by the identity of the tools, which a run never changes; the entry keeps them alive."""
        own = (request.provider_tools, request.provider_tool_options, request.provider_skills)
        key = (id(request.tools), request.model, request.system, request.reasoning, *own)
        found = self._heads.get(key)
        if found is not None:
            return found[1]
        head = hashlib.sha256(_canonical(_head_json(request))).digest()
        self._heads[key] = (request.tools, head)
        if len(self._heads) > HEADS_KEPT:
            self._heads.popitem(last=False)
        return head


def _head_json(request: ModelRequest) -> dict[str, object]:
    tools = [{"name": t.name, "description": t.description, "inputSchema": t.input_schema} for t in request.tools]
    head = {"model": request.model, "reasoning": request.reasoning, "system": request.system, "tools": tools}
    return {**head, **_provider_json(request)}


def _provider_json(request: ModelRequest) -> dict[str, object]:
    """Left out where nothing is asked for, so that what was recorded before there was this is found again."""
    asked: dict[str, object] = {
        "providerTools": list(request.provider_tools),
        "providerToolOptions": request.provider_tool_options,
        "providerSkills": [[skill.kind, skill.skill_id, skill.version] for skill in request.provider_skills],
    }
    return {key: value for key, value in asked.items() if value}


def _message_digest(message: Message) -> bytes:
    return hashlib.sha256(_canonical(message_json(message))).digest()


def _canonical(value: object) -> bytes:
    """ASCII: a model may well send half of a surrogate pair, which has no UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=dict).encode()
