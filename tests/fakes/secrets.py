"""A sealer without cryptography, with the same refusals: what it seals is readable, so only tests may use it."""

import hashlib

from perstackd.domain.errors import Kind, PerstackError


class FakeSealer:
    """Seals under a key that is a name."""

    def __init__(self, key: str = "test") -> None:
        self._key = hashlib.sha256(key.encode()).digest()[:8]
        self._count = 0

    def seal(self, plain: bytes, context: str) -> bytes:
        self._count += 1
        body = self._count.to_bytes(8, "big") + bytes(byte ^ 0x5A for byte in plain)
        return self._key + self._tag(body, context) + body

    def open(self, sealed: bytes, context: str) -> bytes:
        key, tag, body = sealed[:8], sealed[8:40], sealed[40:]
        if key != self._key:
            message = f"a value was sealed with key {key.hex()}, this is key {self._key.hex()}; use the other key"
            raise PerstackError(Kind.PRECONDITION, "seal_broken", message)
        if len(body) < 8 or tag != self._tag(body, context):
            message = f"the sealed value of {context} cannot be opened; seal it again"
            raise PerstackError(Kind.PRECONDITION, "seal_broken", message)
        return bytes(byte ^ 0x5A for byte in body[8:])

    def _tag(self, body: bytes, context: str) -> bytes:
        return hashlib.sha256(self._key + len(context).to_bytes(4, "big") + context.encode() + body).digest()
