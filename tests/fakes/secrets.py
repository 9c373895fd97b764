"""Master keys that are made of names, and a sealer without cryptography with the same refusals: what that one seals is
readable. Only tests may use them.
"""

import hashlib
from collections.abc import Container

from perstackd.adapters.secrets.sealer import AesSealer, key_id_of
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


class FakeMasterKeys:
    """Master keys that are made of the names of their places. `lost` are places that cannot be opened."""

    def __init__(self, source: str = "file:/fake/one", lost: Container[str] = ()) -> None:
        self._sealers: dict[str, AesSealer] = {}
        self._sources: dict[str, str] = {}
        self._lost = lost
        self._key_id = self._opened(source)
        self._made = 0

    @property
    def key_id(self) -> str:
        return self._key_id

    @property
    def source(self) -> str:
        return self._sources[self._key_id]

    def seal(self, plain: bytes, context: str) -> bytes:
        return self._sealers[self._key_id].seal(plain, context)

    def open(self, sealed: bytes, context: str) -> bytes:
        return self._sealers.get(key_id_of(sealed), self._sealers[self._key_id]).open(sealed, context)

    async def take(self, source: str) -> str:
        return self._opened(source)

    def prefer(self, key_id: str) -> None:
        if key_id not in self._sealers:
            raise ValueError(f"the master key {key_id} was not taken")
        self._key_id = key_id

    def new_data_key(self) -> bytes:
        self._made += 1
        return hashlib.sha256(f"data key {id(self)} {self._made}".encode()).digest()

    def data_sealer(self, data_key: bytes) -> AesSealer:
        return AesSealer(data_key)

    def _opened(self, source: str) -> str:
        if source in self._lost:
            raise PerstackError(Kind.PRECONDITION, "key_file_missing", f"there is no key {source}; restore it")
        sealer = AesSealer(hashlib.sha256(source.encode()).digest())
        self._sealers.setdefault(sealer.key_id, sealer)
        self._sources.setdefault(sealer.key_id, source)
        return sealer.key_id
