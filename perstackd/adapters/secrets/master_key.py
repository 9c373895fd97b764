"""Where a master key is: `file:/path`, `systemd:NAME` (a credential of the unit) or `keyring:SERVICE`. Reads it, never
makes one: a key that was made silently in the place of a lost one would make everything unreadable for good.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

from perstackd.adapters.secrets.keyring_program import NO_ENTRY, USER_NAME
from perstackd.adapters.secrets.sealer import AesSealer, key_of_text
from perstackd.domain.errors import Kind, PerstackError

SOURCE: Final = r"(file:/.+|systemd:[A-Za-z0-9_][A-Za-z0-9._-]*|keyring:[\x21-\x7e]+)"
KEYRING_SECONDS: Final = 10.0
_MAKE: Final = "head -c 32 /dev/urandom | base64"
OR_MAKE: Final = ", or make one: "
"""In messages, before what makes a key: that is no remedy while something is sealed with the one that is gone."""
_SOURCE: Final = re.compile(SOURCE)


def read_master_key(source: str) -> AesSealer:
    """The key that is there. Blocks on the disk, or on the keyring for at most `KEYRING_SECONDS`.

    Raises:
        PerstackError: INVALID `master_key_source_invalid`; as `AesSealer.from_key_file` does; PRECONDITION
            `credentials_missing`, `keyring_entry_missing`; UNAVAILABLE `keyring_unavailable`.
    """
    if _SOURCE.fullmatch(source) is None:
        message = f"{source[:200]!r} names no master key; write file:/PATH, systemd:NAME or keyring:SERVICE"
        raise PerstackError(Kind.INVALID, "master_key_source_invalid", message)
    kind, _, name = source.partition(":")
    match kind:
        case "file":
            return _of_file(Path(name))
        case "systemd":
            return _of_credential(name)
        case _:
            return _of_keyring(name)


def _of_file(path: Path) -> AesSealer:
    try:
        return AesSealer.from_key_file(path, create=False)
    except PerstackError as error:
        if error.reason != "key_file_missing":
            raise
        message = f"there is no key file {path}; restore it{OR_MAKE}(umask 077; {_MAKE} >{path})"
        raise PerstackError(error.kind, error.reason, message) from None


def _of_credential(name: str) -> AesSealer:
    directory = os.environ.get("CREDENTIALS_DIRECTORY", "")
    if not directory:
        message = (
            f"the master key is the systemd credential {name!r}, but this process was given none; start perstackd as a "
            f"unit with LoadCredential={name}:/PATH or LoadCredentialEncrypted={name}:/PATH"
        )
        raise PerstackError(Kind.PRECONDITION, "credentials_missing", message)
    try:
        return AesSealer.from_key_file(Path(directory) / name, create=False)
    except PerstackError as error:
        if error.reason != "key_file_missing":
            raise
        message = f"the unit has no credential {name!r}; add LoadCredential={name}:/PATH to it ({_MAKE} makes a key)"
        raise PerstackError(Kind.PRECONDITION, "credentials_missing", message) from None


def _of_keyring(service: str) -> AesSealer:
    command = [sys.executable, "-I", "-m", "perstackd.adapters.secrets.keyring_program", service]
    try:
        done = subprocess.run(  # noqa: S603 - our own program, no shell
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=KEYRING_SECONDS, check=False, cwd="/"
        )
    except subprocess.TimeoutExpired:
        message = f"the keyring did not answer within {KEYRING_SECONDS:.0f} s; unlock it for the user of perstackd"
        raise PerstackError(Kind.UNAVAILABLE, "keyring_unavailable", message, retryable=True) from None
    if done.returncode == NO_ENTRY:
        message = (
            f"the keyring has no entry {service!r} of the user {USER_NAME!r}; restore it{OR_MAKE}"
            f"{_MAKE} | keyring set {service} {USER_NAME}"
        )
        raise PerstackError(Kind.PRECONDITION, "keyring_entry_missing", message)
    if done.returncode:
        why = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
        message = (
            f"the keyring cannot be used ({why[0][:300]}); perstackd needs a Secret Service on its session's D-Bus "
            "(DBUS_SESSION_BUS_ADDRESS), or name the key as file: or systemd:"
        )
        raise PerstackError(Kind.UNAVAILABLE, "keyring_unavailable", message, retryable=True)
    return AesSealer(key_of_text(done.stdout, f"the keyring's entry {service!r}"))
