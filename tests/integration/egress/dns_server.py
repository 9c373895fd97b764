"""A DNS server on loopback whose answers change with each look-up. UDP, A and AAAA, one question a message."""

import asyncio
import socket
import struct
from collections import Counter
from ipaddress import ip_address
from typing import cast

_A, _CNAME, _AAAA = 1, 5, 28
_NXDOMAIN = 3


class Zone:
    """`answers` of a name: one list of addresses for each look-up, the last for ever; `aliases` are told before them.
    A name in `silent` is never answered. `asked` counts the questions for addresses of version 4.
    """

    def __init__(
        self, answers: dict[str, list[list[str]]], aliases: dict[str, str], silent: frozenset[str] = frozenset()
    ) -> None:
        self._answers = {(name, kind): list(turns) for name, turns in answers.items() for kind in (_A, _AAAA)}
        self._aliases = aliases
        self._silent = silent
        self.asked: Counter[str] = Counter()

    def reply(self, query: bytes) -> bytes | None:
        """The reply to a query; None for silence."""
        name, kind, end = _question(query)
        self.asked[name] += kind == _A
        if name in self._silent:
            return None
        target = self._aliases.get(name, name)
        turns = self._answers.get((target, kind))
        if turns is None:
            return query[:2] + struct.pack("!5H", 0x8180 | _NXDOMAIN, 1, 0, 0, 0) + query[12:end]
        now = turns.pop(0) if len(turns) > 1 else turns[0]
        addresses = [found for found in map(ip_address, now) if (found.version == 4) == (kind == _A)]
        records = [_record(_name(name), _CNAME, _name(target))] if target != name else []
        records += [_record(_name(target), kind, found.packed) for found in addresses]
        return query[:2] + struct.pack("!5H", 0x8180, 1, len(records), 0, 0) + query[12:end] + b"".join(records)


class Server(asyncio.DatagramProtocol):
    """`await Server.start(zone, address)`; port 53."""

    def __init__(self, zone: Zone) -> None:
        self._zone = zone
        self._transport: asyncio.DatagramTransport | None = None

    @classmethod
    async def start(cls, zone: Zone, address: str) -> asyncio.DatagramTransport:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(
            lambda: cls(zone), local_addr=(address, 53), family=socket.AF_INET
        )
        return transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        reply = self._zone.reply(data)
        if reply is not None and self._transport is not None:
            self._transport.sendto(reply, addr)


def _question(query: bytes) -> tuple[str, int, int]:
    labels, at = [], 12
    while length := query[at]:
        labels.append(query[at + 1 : at + 1 + length].decode("ascii").lower())
        at += 1 + length
    kind = int.from_bytes(query[at + 1 : at + 3], "big")
    return ".".join(labels), kind, at + 5


def _name(text: str) -> bytes:
    return b"".join(bytes((len(label),)) + label.encode("ascii") for label in text.split(".")) + b"\0"


def _record(name: bytes, kind: int, data: bytes) -> bytes:
    return name + struct.pack("!HHIH", kind, 1, 0, len(data)) + data
