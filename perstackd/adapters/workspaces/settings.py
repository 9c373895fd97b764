"""What the workspaces of a host are made with."""

import os
from dataclasses import dataclass
from typing import Final

from perstackd.adapters.workspaces.userns import MIN_OWNER
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.workspace import Quota

MIN_NAMED: Final = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSettings:
    """Where and as whom. `state` keeps named workspaces, `runtime` is the shared mount; paths are absolute and real.

    `managed_uid` owns named and ephemeral workspaces on the host; the helper's spare uid must be another one, and
    neither may be in the range of sandbox uids. Sizes are bytes; `named_bytes` 0 means named workspaces without a size;
    `kept_mounted` of those with one stay mounted when nobody has them.

    Raises:
        PerstackError: INVALID `config_invalid`.
    """

    state: str
    runtime: str
    roots: tuple[str, ...] = ()
    managed_uid: int = 199_998
    ephemeral_bytes: int = 256 << 20
    ephemeral_inodes: int = 65_536
    named_bytes: int = 0
    named_inodes: int = 65_536
    kept_mounted: int = 8

    def __post_init__(self) -> None:
        if self.managed_uid < MIN_OWNER:
            raise _invalid(f"managed_uid is {self.managed_uid}; take {MIN_OWNER} or more, of no account")
        if min(self.ephemeral_bytes, self.ephemeral_inodes) <= 0:
            raise _invalid("an ephemeral workspace needs a size and an inode cap above 0; 0 would be no limit")
        if self.named_bytes and (self.named_bytes < MIN_NAMED or self.named_inodes <= 0):
            raise _invalid(
                f"a named workspace needs {MIN_NAMED >> 20} MiB and an inode cap above 0; 0 bytes mean no cap"
            )
        for path in (self.state, self.runtime, *self.roots):
            if not path.startswith("/") or {".", ".."} & set(path.split("/")):
                raise _invalid(f"{path!r} is not an absolute path without . and .. parts")

        # compared with normalised paths of callers
        for name in ("state", "runtime"):
            object.__setattr__(self, name, os.path.normpath("/" + getattr(self, name).strip("/")))

    @property
    def quota(self) -> Quota | None:
        """Of a new named workspace; None means that nothing caps it."""
        return sized(self.named_bytes, self.named_inodes) if self.named_bytes else None

    @property
    def tmpfs_options(self) -> str:
        """Of an ephemeral workspace, see tmpfs(5)."""
        owner = f"uid={self.managed_uid},gid={self.managed_uid}"
        return f"size={self.ephemeral_bytes},nr_inodes={self.ephemeral_inodes},mode=0700,{owner}"


def sized(wanted: int, inodes: int) -> Quota:
    """A quota that an image can have: a file system has no more inodes than blocks to put them in."""
    return Quota(wanted, min(inodes, wanted // 4096))


def _invalid(message: str) -> PerstackError:
    return PerstackError(Kind.INVALID, "config_invalid", message)
