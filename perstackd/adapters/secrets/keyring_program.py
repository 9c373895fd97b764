"""`python -m perstackd.adapters.secrets.keyring_program SERVICE` writes the password that the desktop's keyring, or the
server's, has under that service to standard output. A program of its own: a keyring may ask a person to unlock it and
wait for ever, and what it is spoken to with stays out of the daemon's memory.
"""

import sys
from typing import Final

USER_NAME: Final = "master-key"
NO_ENTRY: Final = 3
NO_KEYRING: Final = 4


def main(service: str) -> int:
    """Returns the exit code: 0, `NO_ENTRY`, or `NO_KEYRING` with the cause on standard error."""
    import keyring
    from keyring.errors import KeyringError

    try:
        password = keyring.get_password(service, USER_NAME)
    except KeyringError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}"[:300])
        return NO_KEYRING
    if password is None:
        return NO_ENTRY
    sys.stdout.write(password)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
