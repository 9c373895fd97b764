"""Markers: small directories of random content, attached like a workspace to prove that a sandbox sees late mounts."""

import os
import secrets
from pathlib import Path
from typing import Final

from perstackd.adapters.workspaces.bind import Binder
from perstackd.adapters.workspaces.places import hold
from perstackd.adapters.workspaces.root import RuntimeRoot

MARKER: Final = "marker"


class Markers:
    """Makes and removes markers, on the file system of named workspaces, so that its idmap is proved too. Blocking."""

    def __init__(self, state: str, owner: int, root: RuntimeRoot, binder: Binder) -> None:
        self._directory = Path(state, "markers")
        self._owner = owner
        self._root = root
        self._binder = binder
        self._attached: dict[str, Path] = {}

    def prepare(self) -> None:
        """Make the directory for markers and remove those of an earlier process. Idempotent."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for marker in self._directory.iterdir():
            _remove(marker)

    def attach(self, slot: str, uid: int) -> str:
        """Attach a new marker, read-only; returns its content. Nothing stays when it raises."""
        token = secrets.token_hex(16)
        marker = self._directory / secrets.token_hex(8)
        marker.mkdir(mode=0o700)
        try:
            (marker / MARKER).write_text(token)
            for path in (marker / MARKER, marker):
                os.chown(path, self._owner, self._owner)
            source = hold(str(marker))
            try:
                self._binder.bind(source, slot, uid, read_only=True)
            finally:
                os.close(source.descriptor)
        except BaseException:
            _remove(marker)
            raise
        self._attached[slot] = marker
        return token

    def detach(self, slot: str) -> None:
        """Unmount whatever is on the slot and remove its marker, if it was one. Idempotent."""
        self._root.clear_slot(slot)
        marker = self._attached.pop(slot, None)
        if marker is not None:
            _remove(marker)


def _remove(marker: Path) -> None:
    (marker / MARKER).unlink(missing_ok=True)
    marker.rmdir()
