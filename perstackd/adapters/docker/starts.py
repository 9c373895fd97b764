"""Starting and removing containers: how many at once, and that a start which fails or is given up leaves nothing.

Above it is `engine`, below it `calls`. The functions at the end run on threads.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

import docker.errors

from perstackd.adapters.docker import failures
from perstackd.adapters.docker.calls import CallLimits, Client, EngineCalls
from perstackd.adapters.docker.hardening import Json
from perstackd.domain.errors import PerstackError

_CONFLICT: Final = 409
_REMOVE_POLL_SECONDS: Final = 0.05


class _GivenUpError(Exception):
    """Nobody waits for the start any more."""


class Starts:
    """Starts containers, at most `at_once` together; the others wait in order."""

    def __init__(self, calls: EngineCalls, limits: CallLimits, at_once: int) -> None:
        self._calls = calls
        self._limits = limits
        self._gate = asyncio.Semaphore(at_once)

    async def run(self, name: str, options: dict[str, Json], note: Callable[[str], None]) -> str:
        """The id of the started container; `note` gets it before it is started, on a thread. A caller that is cancelled
        leaves none behind.

        Raises:
            PerstackError: UNAVAILABLE `engine_unavailable`.
            docker.errors.APIError: the engine's refusal; what was made before it is removed.
        """
        await self._gate.acquire()
        given_up = threading.Event()
        try:
            self._calls.admit()
            work = partial(_create_and_start, name, options, given_up, note)
            running = self._calls.submit(work, self._limits.start_seconds / 2)
        except BaseException:
            self._gate.release()
            raise
        # The thread may outlive its caller, and the engine is busy as long as the thread is.
        running.add_done_callback(lambda _: self._gate.release())
        try:
            async with asyncio.timeout(self._limits.start_seconds):
                return self._calls.answered(await asyncio.shield(running))
        except BaseException as error:
            given_up.set()
            running.add_done_callback(self._remove_late)
            outcome = self._calls.judged(error)
            if outcome is error:
                raise
            raise outcome from error

    def _remove_late(self, running: "asyncio.Future[str]") -> None:
        # Asking for the exception marks it as seen. Without one, the start succeeded in the instant it was given up.
        if running.cancelled() or running.exception() is not None:
            return
        remove = partial(_remove_id, running.result())
        with suppress(PerstackError):  # this process is closing; the next one finds the container by its label
            removal = self._calls.submit(remove, self._limits.remove_seconds)
            removal.add_done_callback(lambda done: done.cancelled() or done.exception())


def _create_and_start(
    name: str, options: dict[str, Json], given_up: threading.Event, note: Callable[[str], None], client: Client
) -> str:
    if given_up.is_set():
        raise _GivenUpError
    try:
        container_id = str(client.create_container_from_config(options, name)["Id"])
    except docker.errors.APIError:
        raise  # refused: nothing was made, and a container of that name is another one
    except Exception as error:
        _clear(client, name, error)  # no answer: it may have been made all the same
        raise
    try:
        note(container_id)
        client.start(container_id)
        if given_up.is_set():
            raise _GivenUpError
    except BaseException as error:
        _clear(client, container_id, error)
        raise
    return container_id


def _clear(client: Client, container: str, error: BaseException) -> None:
    # The first error is the one to raise; that something stays is added to it. It carries our label, so a reconcile
    # finds it.
    try:
        client.remove_container(container, force=True, v=True)
    except docker.errors.NotFound:
        return
    except Exception as second:
        error.add_note(f"(and what was made of it could not be removed: {failures.detail(second)})")


def _remove_id(container_id: str, client: Client) -> None:
    client.remove_container(container_id, force=True, v=True)


def remove_container(name: str, label: str, seconds: float, client: Client) -> None:
    """Kill and remove the container that has both name and label, whoever else is removing it. It is gone on return;
    what never was is no error.
    """
    deadline = time.monotonic() + seconds
    wanted = {"name": f"^/{name}$", "label": label}
    while found := client.containers(all=True, filters=wanted):
        try:
            client.remove_container(found[0]["Id"], force=True, v=True)
        except docker.errors.NotFound:
            return
        except docker.errors.APIError as error:
            # Another removal of it is under way: wait until the name is unknown.
            if error.status_code != _CONFLICT or time.monotonic() > deadline:
                raise
            time.sleep(_REMOVE_POLL_SECONDS)
        else:
            return
