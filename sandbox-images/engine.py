"""The Docker engine as the builds use it: which images it has, one `docker build`, tags."""

import tempfile
from collections.abc import Iterable, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from commands import ask, fail, run, say
from content import ROOT

CACHE: Final = ROOT / ".cache" / "images"


def exists(image: str) -> bool:
    """Whether the engine has the image."""
    return ask(["docker", "image", "inspect", "--format={{.Id}}", image])[0] == 0


def identity(image: str) -> str:
    """The id of an image that was just found or made: parts are chained by it."""
    code, output = ask(["docker", "image", "inspect", "--format={{.Id}}", image])
    if code:
        fail(f"the image {image} vanished while it was needed: {output}; run this again")
    return output


def require_engine() -> None:
    """End with the remedy when no engine answers."""
    code, output = ask(["docker", "version", "--format", "{{.Server.Version}}"], timeout=20)
    if code == 127:
        fail("the docker command is not installed; on Debian: apt-get install docker.io docker-cli")
    if code:
        fail(f"the Docker engine does not answer ({output.splitlines()[-1]}); start it: systemctl start docker")


@dataclass(frozen=True)
class Build:
    """One `docker build`: what it is tagged, from which image and context, with which arguments."""

    tag: str
    origin: str
    dockerfile: Path
    network: str = "none"
    arguments: tuple[str, ...] = ()

    def run(self, context: Path) -> None:
        """Build and tag. Both of Docker's builders understand all of it."""
        arguments = [f"--build-arg={argument}" for argument in (f"ORIGIN={self.origin}", *self.arguments)]
        options = [f"--network={self.network}", f"--tag={self.tag}", f"--file={self.dockerfile}", *arguments]
        run(["docker", "build", "--quiet", *options, str(context)])


def context_directory() -> tempfile.TemporaryDirectory[str]:
    """Where the files of one build are laid out."""
    CACHE.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(prefix="context-", dir=CACHE)


def publish(tag: str) -> None:
    """Make it the `latest` of its repository and remove the repository's other tags."""
    repository = tag.partition(":")[0]
    run(["docker", "tag", tag, f"{repository}:latest"])
    for other in superseded(tags_of(repository), {tag, f"{repository}:latest"}, by_kind=False):
        remove_tag(other)


def remove_superseded(repository: str, keep: set[str]) -> None:
    """Remove the parts that were replaced. Kinds that this run did not look at stay: they are another image's."""
    for tag in superseded(tags_of(repository), keep, by_kind=True):
        remove_tag(tag)


def superseded(tags: Iterable[str], keep: Set[str], *, by_kind: bool) -> list[str]:
    """The tags that are not kept. With `by_kind` only those of a kind (`system` of `system-HASH`) that is kept, too."""
    kinds = {_kind(tag) for tag in keep}
    return [tag for tag in tags if tag not in keep and (not by_kind or _kind(tag) in kinds)]


def _kind(tag: str) -> str:
    return tag.rpartition("-")[0]


def tags_of(repository: str) -> list[str]:
    """All tags of a repository of ours, with its name."""
    code, output = ask(["docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}", repository])
    return output.split() if code == 0 else []


def remove_tag(tag: str) -> None:
    """One that a container uses stays until the next run."""
    code, detail = ask(["docker", "image", "rm", tag])
    say(f"removed {tag}" if code == 0 else f"kept {tag}: {detail.splitlines()[-1]}")
