"""What is examined, as plain values of the configuration."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from perstackd.domain.sandbox import Template


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A configured daemon. `uids` are single ones by their key, `keys` the environment variables of model keys by
    provider.
    """

    state: Path
    runtime: Path
    socket: Path
    roots: tuple[Path, ...] = ()
    sandbox_uids: tuple[int, int] = (200_000, 265_535)
    uids: Mapping[str, int] = field(default_factory=dict)
    templates: tuple[Template, ...] = ()
    engine_url: str = "unix:///var/run/docker.sock"
    engine_seconds: float = 10.0
    seccomp_path: str = ""
    provider: str = ""
    keys: Mapping[str, str] = field(default_factory=dict)
    named_bytes: int = 0
    min_free_memory: int = 0
    min_free_disk: int = 0

    @property
    def managed_uid(self) -> int:
        """Who owns managed workspaces."""
        return self.uids.get("workspaces.uid", 199_998)

    @property
    def spare_uid(self) -> int:
        """The second entry of the idmap."""
        return self.uids.get("workspaces.spare_uid", 199_999)
