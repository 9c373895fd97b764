"""Where packages come from on this machine: what a sandbox that installs one may reach, and how it finds its way.

A value, read once at the start and passed to whoever gives sandboxes their rules.
"""

from dataclasses import dataclass, field
from typing import Final

from perstackd.ports.egress import EgressRule

GRANT: Final = "package-indexes"
"""The `grant` of a template whose sandboxes may reach the indexes."""


@dataclass(frozen=True, slots=True)
class PackageGrant:
    """Hosts of one kind of index, and the variables that name the indexes to its package manager. Holds no secret."""

    rules: tuple[EgressRule, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class PackageIndexes:
    """Those of this machine's npm, and of its pip and uv. Empty where neither a tool nor a configuration names one."""

    npm: PackageGrant = field(default_factory=PackageGrant)
    python: PackageGrant = field(default_factory=PackageGrant)

    def of_command(self, command: str) -> PackageGrant:
        """What `npx` or `uvx` needs to install a package; nothing for any other command."""
        match command:
            case "npx":
                return self.npm
            case "uvx":
                return self.python
            case _:
                return PackageGrant()
