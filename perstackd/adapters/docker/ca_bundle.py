"""The certificate authorities that programs in sandboxes believe: one file of the operator's, checked, then copied.

The copy is what is mounted, so that what was checked is what is seen, whatever becomes of the operator's file and
whoever may read it. Its name tells its contents: a sandbox of an earlier daemon with other contents is recognised.
"""

import ssl
from hashlib import sha256
from pathlib import Path
from typing import Final

from perstackd.domain.errors import Kind, PerstackError

MAX_BYTES: Final = 1 << 20


def installed(source: Path, directory: Path) -> str:
    """Check `source` and copy it into `directory`; returns the copy's path. Blocking. Idempotent.

    Raises:
        PerstackError: PRECONDITION `ca_bundle_unreadable`; INVALID `ca_bundle_invalid`.
    """
    data = _checked(source)
    target = directory / f"ca-{sha256(data).hexdigest()[:16]}.pem"
    for other in directory.glob("ca-*.pem"):
        if other != target:
            other.unlink()  # a sandbox that still has it mounted keeps it
    unfinished = target.with_suffix(".unfinished")
    unfinished.write_bytes(data)
    unfinished.chmod(0o644)  # every sandbox has a uid of its own
    unfinished.replace(target)
    return str(target)


def _checked(source: Path) -> bytes:
    try:
        with source.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        message = f"egress.ca_bundle {source} cannot be read: {error.strerror}; name a PEM file with certificates"
        raise PerstackError(Kind.PRECONDITION, "ca_bundle_unreadable", message) from error
    if len(data) > MAX_BYTES:
        raise _invalid(source, f"it has more than {MAX_BYTES} bytes")
    if b"PRIVATE KEY-----" in data:
        raise _invalid(source, "it holds a private key, which every sandbox could read")
    try:
        # An empty context: what the text adds is all that is in it.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=data.decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError) as error:
        raise _invalid(source, f"it is no PEM file of certificates ({error})") from error
    return data


def _invalid(source: Path, why: str) -> PerstackError:
    message = f"egress.ca_bundle {source}: {why}; it must hold all the authorities that sandboxes shall believe, in PEM"
    return PerstackError(Kind.INVALID, "ca_bundle_invalid", message)
