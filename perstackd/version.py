"""The version of this release, and of the protocol between daemon and runner."""

from typing import Final

VERSION: Final = "0.1.0"
RUNNER_PROTOCOL: Final = 1
