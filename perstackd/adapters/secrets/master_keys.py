"""The master keys of a daemon: the configured one, and beside it another one while it takes that one's place."""

import secrets
from pathlib import Path

import structlog
from anyio import to_thread

from perstackd.adapters.secrets.master_key import OR_MAKE, read_master_key
from perstackd.adapters.secrets.sealer import KEY_BYTES, AesSealer, key_id_of
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.secret import MasterRotation
from perstackd.ports.secret_store import KeptSecrets, SecretRows

_log = structlog.get_logger()


class MasterKeyRing:
    """See `perstackd.ports.secret_store.MasterKeys`."""

    def __init__(self, source: str, sealer: AesSealer) -> None:
        self._sealers = {sealer.key_id: sealer}
        self._sources = {sealer.key_id: source}
        self._key_id = sealer.key_id

    @property
    def key_id(self) -> str:
        return self._key_id

    @property
    def ids(self) -> frozenset[str]:
        """Of all that are open."""
        return frozenset(self._sealers)

    @property
    def source(self) -> str:
        return self._sources[self._key_id]

    def seal(self, plain: bytes, context: str) -> bytes:
        return self._sealers[self._key_id].seal(plain, context)

    def open(self, sealed: bytes, context: str) -> bytes:
        sealer = self._sealers.get(key_id_of(sealed), self._sealers[self._key_id])
        return sealer.open(sealed, context)

    async def take(self, source: str) -> str:
        sealer = await to_thread.run_sync(read_master_key, source)
        self._sealers.setdefault(sealer.key_id, sealer)
        self._sources.setdefault(sealer.key_id, source)
        return sealer.key_id

    def prefer(self, key_id: str) -> None:
        if key_id not in self._sealers:
            raise ValueError(f"the master key {key_id} was not taken")
        self._key_id = key_id

    def new_data_key(self) -> bytes:
        return secrets.token_bytes(KEY_BYTES)

    def data_sealer(self, data_key: bytes) -> AesSealer:
        return AesSealer(data_key)


async def open_master_keys(configured: str, default: Path, rows: SecretRows) -> MasterKeyRing:
    """The keys that open what the store holds. `configured` is `secrets.master_key`; empty means the file `default`,
    which is made when it is missing and nothing was ever sealed.

    Raises:
        PerstackError: PRECONDITION `master_key_wrong` when something is sealed with a key that is not at hand; as
            `read_master_key` does. Nothing is written then.
    """
    kept = await rows.kept()
    source = configured or f"file:{default}"
    ring = MasterKeyRing(source, await _configured(source, kept, default if not configured else None))
    if kept.rotation is not None:
        await _join(ring, kept, kept.rotation)
    if unknown := sorted(set(kept.master_ids) - ring.ids):
        raise _wrong(ring, unknown, kept.rotation)
    if kept.rotation is not None and set(kept.master_ids) <= {ring.key_id}:
        if ring.source == source:
            await rows.set_rotation(None)
        else:
            _log.warning("secrets.master_key names an old key", named=source, now=ring.source)
    return ring


async def _configured(source: str, kept: KeptSecrets, made: Path | None) -> AesSealer:
    """`made` is the file that may be made, while nothing is sealed."""
    try:
        if made is not None and not kept.master_ids:
            return await to_thread.run_sync(AesSealer.from_key_file, made)
        return await to_thread.run_sync(read_master_key, source)
    except PerstackError as error:
        if not kept.master_ids:
            raise
        raise _needed(kept.master_ids, error) from error


async def _join(ring: MasterKeyRing, kept: KeptSecrets, rotation: MasterRotation) -> None:
    """Open the other key of a change that was begun. The new one seals, whichever the configuration names."""
    keys = {rotation.from_id: rotation.from_source, rotation.to_id: rotation.to_source}
    if ring.key_id not in keys:
        return
    del keys[ring.key_id]
    for other, source in keys.items():
        try:
            await ring.take(source)
        except PerstackError as error:
            if other in kept.master_ids:
                raise _needed((other,), error) from error
            _log.warning("the other key of a change is gone, and nothing needs it", key_id=other, source=source)
    if rotation.to_id in ring.ids:
        ring.prefer(rotation.to_id)


def _needed(ids: tuple[str, ...], error: PerstackError) -> PerstackError:
    problem = error.message.partition(OR_MAKE)[0]
    message = f"the store holds values that are sealed with the master key {', '.join(ids)}, and {problem}"
    return PerstackError(error.kind, error.reason, message, fields=error.fields, retryable=error.retryable)


def _wrong(ring: MasterKeyRing, unknown: list[str], rotation: MasterRotation | None) -> PerstackError:
    remedy = "restore that key and start again; nothing was changed"
    if rotation is not None and rotation.to_id in unknown:
        remedy = f"it was changed to {rotation.to_source}: name that as secrets.master_key"
    ids = ", ".join(unknown)
    message = (
        f"the store holds values that are sealed with the master key {ids}, but {ring.source} is the key "
        f"{ring.key_id}; {remedy}"
    )
    fields = {"sealed_with": ids, "key_id": ring.key_id}
    return PerstackError(Kind.PRECONDITION, "master_key_wrong", message, fields=fields)
