"""What the tools were found to use, and the grants that it makes. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlsplit

from perstackd.ports.egress import EgressRule
from perstackd.ports.package_indexes import PackageGrant


@dataclass(frozen=True, slots=True)
class PythonIndexes:
    """Indexes as their addresses; empty where none is named. `public` is the one that pip has built in, and
    `public_files` the host that it sends files from.
    """

    index: str = ""
    extra: tuple[str, ...] = ()
    public: str = ""
    public_files: str = ""


@dataclass(frozen=True, slots=True)
class NpmRegistries:
    """The registry, and those of single scopes, by scope."""

    registry: str = ""
    scopes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Judged:
    """A grant, and why an address that is configured is not in it, or not wholly."""

    grant: PackageGrant
    remarks: tuple[str, ...] = ()


def python_grant(found: PythonIndexes) -> Judged:
    """Rules and variables for uv, and for the pip that a package may run."""
    index, extra = _usable(found.index), [url for url in map(_usable, found.extra) if url]
    hosts = [*([index] if index else []), *extra]
    rules = [*map(_rule, hosts)]
    if found.public_files and found.public and _same(found.public, hosts):
        rules.append(EgressRule(found.public_files))
    environment = []
    if index:
        environment += [("UV_DEFAULT_INDEX", _plain(index)), ("PIP_INDEX_URL", _plain(index))]
    if extra:
        listed = " ".join(map(_plain, extra))
        environment += [("UV_INDEX", listed), ("PIP_EXTRA_INDEX_URL", listed)]
    grant = PackageGrant(tuple(dict.fromkeys(rules)), tuple(environment))
    return Judged(grant, tuple(_remarks([found.index, *found.extra])))


def npm_grant(found: NpmRegistries) -> Judged:
    """Rules and variables for npm and npx."""
    named = {"npm_config_registry": found.registry}
    named |= {f"npm_config_{scope}:registry": url for scope, url in found.scopes.items()}
    usable = {name: url for name, text in named.items() if (url := _usable(text))}
    rules = tuple(dict.fromkeys(map(_rule, usable.values())))
    environment = tuple((name, _plain(url)) for name, url in usable.items())
    return Judged(PackageGrant(rules, environment), tuple(_remarks(named.values())))


def _usable(text: str) -> SplitResult | None:
    """The address, where the way out of a sandbox can lead there: TLS to a host."""
    url = _split(text)
    return url if url is not None and url.scheme == "https" and url.hostname else None


def _split(text: str) -> SplitResult | None:
    try:
        url = urlsplit(text.strip())
        _ = url.port  # raises where it is no number
    except ValueError:
        return None
    return url


def _rule(url: SplitResult) -> EgressRule:
    return EgressRule((url.hostname or "").removesuffix("."), url.port or 443)


def _plain(url: SplitResult) -> str:
    """Without credentials: whatever is inside a sandbox can be read there."""
    return url._replace(netloc=url.netloc.rpartition("@")[2], fragment="").geturl()


def _same(public: str, hosts: Iterable[SplitResult]) -> bool:
    return any(_plain(url).rstrip("/") == public.rstrip("/") for url in hosts)


def _remarks(texts: Iterable[str]) -> Iterator[str]:
    for text in filter(None, texts):
        url = _split(text)
        if url is None:
            yield "an address that cannot be read is left out"
        elif _usable(text) is None:
            yield f"{_plain(url)} is left out: sandboxes reach https addresses only"
        elif "@" in url.netloc:
            yield f"{_plain(url)} is passed on without its credentials: sandboxes get none"
