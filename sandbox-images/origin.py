"""Where every image begins: a minimal Debian, pulled, or made by mmdebstrap from this machine's own apt sources."""

import contextlib
import os
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from apt_sources import from_deb822, from_lines
from commands import ask, fail, run, say, step
from content import content_hash
from engine import context_directory, exists

PUBLIC_ORIGIN: Final = "debian:bookworm-slim"
PULL_SECONDS: Final = 30
# Satisfies a dependency that would otherwise bring the whole of perl.
LEAN: Final = ("usr-is-merged",)
NOT_INSTALLED: Final = tuple(f"/usr/share/{name}/*" for name in ("doc", "man", "info", "locale", "lintian"))


def origin(repository: str, packages: Sequence[str], *, fresh: bool, kind: str = "origin") -> str:
    """A minimal Debian: an earlier run's, unless a fresh one is wanted; else a pulled one, or one made here.

    One that is made here has the packages already; a pulled one gets them later, from where it comes.
    """
    wanted = (*packages, *LEAN)
    tag = f"{repository}:{kind}-{content_hash(PUBLIC_ORIGIN, *wanted, *NOT_INSTALLED)}"
    if exists(tag) and not fresh:
        say(f"{kind}: {tag} is there")
        return tag
    say(f"==> pulling {PUBLIC_ORIGIN}, for at most {PULL_SECONDS} s")
    code, output = ask(["docker", "pull", "--quiet", PUBLIC_ORIGIN], timeout=PULL_SECONDS)
    if code == 0:
        run(["docker", "tag", PUBLIC_ORIGIN, tag])
        return tag
    say(f"    could not be pulled: {output.splitlines()[-1] if output else f'exit code {code}'}")
    with step("making it with mmdebstrap from this machine's apt sources"):
        import_debian(tag, wanted)
    return tag


def import_debian(tag: str, packages: Sequence[str]) -> None:
    """mmdebstrap | docker import."""
    require_mmdebstrap()
    suite = os_release().get("VERSION_CODENAME", "")
    with context_directory() as directory:
        sources, archive = Path(directory, "debian.sources"), Path(directory, "root.tar")
        sources.write_text(apt_sources(suite))
        options = [f"--dpkgopt=path-exclude={pattern}" for pattern in NOT_INSTALLED]
        options += [f"--aptopt={line}" for line in apt_network_options()]
        # What the building machine used to reach its mirrors stays on the building machine.
        options.append('--customize-hook=rm -rf "$1"/etc/apt/sources.list* "$1"/etc/apt/apt.conf.d/99mmdebstrap')
        options.append('--customize-hook=find "$1" -xdev -perm /6000 -exec chmod a-s {} +')
        command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(packages)}", *options]
        run([*command, suite, str(archive), str(sources)])
        run(["docker", "import", str(archive), tag])


def require_mmdebstrap() -> None:
    """Install mmdebstrap where that can be done without asking, else say what to do."""
    if shutil.which("mmdebstrap"):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        remedy = f"make {PUBLIC_ORIGIN} pullable for the engine, or on Debian: apt-get install mmdebstrap"
        fail(f"there is neither a public image nor mmdebstrap: {remedy}")
    run(["apt-get", "install", "--yes", "--no-install-recommends", "mmdebstrap"])


def os_release() -> dict[str, str]:
    """The fields of /etc/os-release."""
    with contextlib.suppress(OSError):
        return platform.freedesktop_os_release()
    return {}


def apt_sources(suite: str) -> str:
    """This machine's own apt sources of its release, as deb822; nothing of other vendors.

    Ends the program when there are none: then this is no Debian, or one without sources.
    """
    top = Path("/etc/apt")
    listed = [top / "sources.list", *sorted(top.glob("sources.list.d/*.list"))]
    stanzas = [stanza for path in listed if path.is_file() for stanza in from_lines(path.read_text(), suite)]
    for path in sorted(top.glob("sources.list.d/*.sources")):
        stanzas += from_deb822(path.read_text(), suite)
    if not suite or not stanzas:
        fail(
            f"/etc/apt names no source for the release {suite or '(unknown)'} of this machine, "
            f"so no root file system can be made here; make {PUBLIC_ORIGIN} pullable for the engine instead"
        )
    return "\n\n".join(stanzas) + "\n"


def apt_network_options() -> list[str]:
    """How this machine's apt reaches its mirrors: proxies and certificates, which mmdebstrap's apt does not read."""
    code, output = ask(["apt-config", "dump", "--no-empty", "--format", '%F "%v";%n', "Acquire"])
    wanted = ("proxy", "cainfo", "sslcert", "sslkey")
    lines = output.splitlines() if code == 0 else []
    return [line for line in lines if any(word in line.split(" ")[0].lower() for word in wanted)]
