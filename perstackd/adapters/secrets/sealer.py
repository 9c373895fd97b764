"""AES-256-GCM under the daemon's key file. Nothing here puts a key or a plain value into a message, a repr or a log.

A record is: version (1 byte) | key id (8) | nonce (12, random) | ciphertext and tag. The context is authenticated and
not kept. Random nonces are safe for 2^32 records of one key (NIST SP 800-38D, 8.3); a job makes one.
"""

import base64
import binascii
import hashlib
import os
import secrets
import stat
from pathlib import Path
from typing import Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from perstackd.domain.errors import Kind, PerstackError

VERSION: Final = b"\x01"
KEY_BYTES: Final = 32
KEY_ID_BYTES: Final = 8
NONCE_BYTES: Final = 12
HEADER_BYTES: Final = len(VERSION) + KEY_ID_BYTES + NONCE_BYTES
TAG_BYTES: Final = 16
_MAX_FILE_BYTES: Final = 256


class AesSealer:
    """See `perstackd.ports.secrets.Sealer`. Pure computation: microseconds for what an environment holds."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes")
        self._cipher = AESGCM(key)
        self._key_id = hashlib.sha256(key).digest()[:KEY_ID_BYTES]

    @classmethod
    def from_key_file(cls, path: Path, *, create: bool = True) -> Self:
        """The sealer of the key in `path`, which holds 32 bytes in base64, mode 0600. Blocks on the disk: for start-up.

        A missing file is made of random bytes, durable on return, when `create` says so.

        Raises:
            PerstackError: PRECONDITION `key_file_missing`, `key_file_unsafe` (another owner, a wider mode, not a file),
                `key_file_invalid`; UNAVAILABLE `key_file_unavailable`.
        """
        try:
            return cls(_read_or_make(path, create=create))
        except OSError as error:
            message = f"the key file {path} cannot be used: {error.strerror}; see its directory, owner and file system"
            raise PerstackError(Kind.UNAVAILABLE, "key_file_unavailable", message) from None

    @property
    def key_id(self) -> str:
        """Which key this is, 16 hex digits; safe to show."""
        return self._key_id.hex()

    def __repr__(self) -> str:
        return f"AesSealer(key_id={self.key_id!r})"

    def seal(self, plain: bytes, context: str) -> bytes:
        nonce = secrets.token_bytes(NONCE_BYTES)
        header = VERSION + self._key_id + nonce
        return header + self._cipher.encrypt(nonce, plain, context.encode())

    def open(self, sealed: bytes, context: str) -> bytes:
        self._check_header(sealed)
        nonce = sealed[HEADER_BYTES - NONCE_BYTES : HEADER_BYTES]
        try:
            return self._cipher.decrypt(nonce, sealed[HEADER_BYTES:], context.encode())
        except InvalidTag:
            detail = "it was changed, or sealed for something else; restore it from a backup or give the secret again"
            raise _broken(context, detail) from None

    def _check_header(self, sealed: bytes) -> None:
        key_id = key_id_of(sealed)
        if key_id != self.key_id:
            message = (
                f"a value was sealed with key {key_id}, the daemon has key {self.key_id}; "
                "put the old key file back, or give the secret again"
            )
            fields = {"sealed_with": key_id, "key_id": self.key_id}
            raise PerstackError(Kind.PRECONDITION, "seal_broken", message, fields=fields)


def key_id_of(sealed: bytes) -> str:
    """The id of the key that it was sealed with. Raises PerstackError PRECONDITION `seal_broken`."""
    if len(sealed) < HEADER_BYTES + TAG_BYTES or sealed[:1] != VERSION:
        raise PerstackError(
            Kind.PRECONDITION, "seal_broken", "a sealed value is not one of ours: too short, or of another version"
        )
    return sealed[1 : 1 + KEY_ID_BYTES].hex()


def beginning_of(key_id: str) -> bytes:
    """What every value begins with that was sealed with that key."""
    return VERSION + bytes.fromhex(key_id)


def _broken(context: str, detail: str) -> PerstackError:
    return PerstackError(Kind.PRECONDITION, "seal_broken", f"the sealed value of {context} cannot be opened: {detail}")


def _read_or_make(path: Path, *, create: bool) -> bytes:
    try:
        return _read(path)
    except FileNotFoundError:
        if not create:
            message = f"there is no key file {path}; restore it from your backup, or let the daemon make one"
            raise PerstackError(Kind.PRECONDITION, "key_file_missing", message) from None
    _make(path)
    return _read(path)


def _read(path: Path) -> bytes:
    # One descriptor for the checks and the bytes; a FIFO does not block and a link is not followed.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor
        _check_safe(path, os.fstat(descriptor))
        return key_of_text(file.read(_MAX_FILE_BYTES + 1), f"the key file {path}")


def _check_safe(path: Path, status: os.stat_result) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISREG(status.st_mode):
        raise _unsafe(path, "it is not a regular file", "name a file")
    if status.st_uid not in {0, os.geteuid()}:
        raise _unsafe(path, f"it belongs to uid {status.st_uid}", f"chown it to root or to uid {os.geteuid()}")
    if mode & 0o177:
        raise _unsafe(path, f"its mode is {mode:04o}", "chmod 600 it, and change the key if others could read it")


def _unsafe(path: Path, what: str, remedy: str) -> PerstackError:
    message = f"the key file {path} is not safe: {what}; {remedy}"
    return PerstackError(Kind.PRECONDITION, "key_file_unsafe", message)


def key_of_text(text: bytes, where: str) -> bytes:
    """The key that is written there as 32 bytes in base64. Raises PerstackError PRECONDITION `key_file_invalid`."""
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except binascii.Error:
        key = b""
    if len(key) != KEY_BYTES:
        message = f"{where} does not hold {KEY_BYTES} bytes in base64; restore it from your backup"
        raise PerstackError(Kind.PRECONDITION, "key_file_invalid", message)
    return key


def _make(path: Path) -> None:
    # Written under another name and linked: the file is whole or not there, and one that is there is never replaced.
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor
            file.write(base64.b64encode(secrets.token_bytes(KEY_BYTES)) + b"\n")
            file.flush()
            os.fsync(descriptor)
        try:
            os.link(unfinished, path)
        except FileExistsError:
            return  # another process was first: its key is the key
    finally:
        unfinished.unlink()
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
