"""The SDK's exceptions as errors of the product, each with its remedy."""

import errno
from collections.abc import Iterator
from typing import Final

import docker.errors
import requests.exceptions

from perstackd.domain.errors import Kind, PerstackError

_DETAIL_CHARACTERS: Final = 400

_SOCKET_CAUSES: Final = {
    errno.ENOENT: "there is no such socket",
    errno.ECONNREFUSED: "nobody listens on the socket",
    errno.EACCES: "this user may not open the socket",
}


def is_silence(error: BaseException) -> bool:
    """Whether the engine gave no answer at all, as opposed to an answer that says no."""
    if isinstance(error, docker.errors.APIError):
        return False
    return isinstance(
        error, docker.errors.DockerException | requests.exceptions.RequestException | TimeoutError | OSError
    )


def unavailable(url: str, cause: str) -> PerstackError:
    """UNAVAILABLE `engine_unavailable`, retryable."""
    message = (
        f"the Docker engine at {url} did not answer: {cause}; start it (systemctl start docker) and try `docker info`"
    )
    return PerstackError(Kind.UNAVAILABLE, "engine_unavailable", message, fields={"engine": url}, retryable=True)


def silence_cause(error: BaseException) -> str:
    """Why nothing came, in words."""
    for link in _chain(error):
        if isinstance(link, requests.exceptions.Timeout | TimeoutError):
            return "the call timed out"
        if isinstance(link, OSError) and link.errno in _SOCKET_CAUSES:
            return _SOCKET_CAUSES[link.errno]
    return detail(error)


def _chain(error: BaseException) -> Iterator[BaseException]:
    # requests and urllib3 keep causes in their arguments as well as in the chain.
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        link = waiting.pop(0)
        if id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        related = [link.__cause__, link.__context__, *link.args, getattr(link, "reason", None)]
        waiting += [other for other in related if isinstance(other, BaseException)]


def detail(error: BaseException) -> str:
    """The engine's own words, short."""
    text = getattr(error, "explanation", None) or str(error) or type(error).__name__
    notes = "; ".join(getattr(error, "__notes__", ()))
    return " ".join(f"{text} {notes}".split())[:_DETAIL_CHARACTERS]


def image_missing(image: str) -> PerstackError:
    """NOT_FOUND `image_missing`."""
    message = f"the sandbox image {image} is not on this engine; build it with `make images`"
    return PerstackError(Kind.NOT_FOUND, "image_missing", message, fields={"image": image})


def image_unfit(image: str) -> PerstackError:
    """PRECONDITION `image_unfit`."""
    message = (
        f"the image {image} has no entry point, so it has no runner: build it FROM perstack/base or perstack/full, and "
        "keep their entry point"
    )
    return PerstackError(Kind.PRECONDITION, "image_unfit", message, fields={"image": image})


def start_failed(sandbox_id: str, cause: str) -> PerstackError:
    """PRECONDITION `start_failed`."""
    message = f"sandbox {sandbox_id} could not be started: {cause}"
    return PerstackError(Kind.PRECONDITION, "start_failed", message, fields={"sandbox_id": sandbox_id})


def remove_failed(container: str, cause: str) -> PerstackError:
    """UNAVAILABLE `remove_failed`, retryable."""
    remedy = f"it is tried again; by hand: docker rm --force {container}"
    message = f"container {container} could not be removed: {cause}; {remedy}"
    return PerstackError(Kind.UNAVAILABLE, "remove_failed", message, fields={"container": container}, retryable=True)


def refused(what: str, error: BaseException) -> PerstackError:
    """INTERNAL `engine_refused`: an answer that no caller of ours should cause."""
    return PerstackError(Kind.INTERNAL, "engine_refused", f"the Docker engine refused to {what}: {detail(error)}")


def profile_unreadable(path: str, cause: str) -> PerstackError:
    """PRECONDITION `seccomp_profile_unreadable`."""
    message = f"the seccomp profile {path} cannot be used: {cause}; no sandbox is started without one"
    return PerstackError(Kind.PRECONDITION, "seccomp_profile_unreadable", message, fields={"path": path})
