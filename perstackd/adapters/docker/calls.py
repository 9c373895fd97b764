"""The fence around the blocking SDK: own threads, a deadline for every call, and a circuit breaker.

Above it is `engine`. A call that is given up keeps its thread until the socket's own time-out, which is its deadline;
the breaker sees to it that not all threads end up there.
"""

import asyncio
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import ceil
from typing import Any, Final, TypeAlias, TypeVar

import docker
import docker.errors

from perstackd.adapters.docker.breaker import Breaker
from perstackd.adapters.docker.failures import is_silence, silence_cause, unavailable

T = TypeVar("T")

# The SDK's APIClient; its stubs leave half of the calls untyped.
Client: TypeAlias = Any

# Waiting on the loop a little longer than on the socket lets the thread tell what happened.
_GRACE_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class CallLimits:
    """Bounds of the engine's calls, in seconds and numbers.

    `threads` exceeds the starts that run at once, so that removals and questions never wait for starts.
    """

    call_seconds: float = 10.0
    start_seconds: float = 60.0
    remove_seconds: float = 30.0
    threads: int = 10
    breaker_failures: int = 5
    breaker_seconds: float = 5.0


class EngineCalls:
    """Runs blocking work with an engine client on threads of its own."""

    def __init__(self, url: str, limits: CallLimits) -> None:
        self._url = url
        self._limits = limits
        self._breaker = Breaker(limits.breaker_failures, limits.breaker_seconds)
        self._executor = ThreadPoolExecutor(limits.threads, thread_name_prefix="docker")
        self._clients: dict[float, Client] = {}
        self._lock = threading.Lock()

    async def run(self, work: Callable[[Client], T], seconds: float) -> T:
        """The result of `work`, which gets a client whose sockets time out after `seconds`.

        Raises:
            PerstackError: UNAVAILABLE `engine_unavailable` when nothing came in time, or lately nothing ever came.
            docker.errors.APIError: the engine's refusals, as they are.
        """
        self.admit()
        try:
            async with asyncio.timeout(seconds + _GRACE_SECONDS):
                return self.answered(await self.submit(work, seconds))
        except BaseException as error:
            outcome = self.judged(error)
            if outcome is error:
                raise
            raise outcome from error

    def submit(self, work: Callable[[Client], T], seconds: float) -> "asyncio.Future[T]":
        """Begin `work` on a thread, past the breaker. Raises `engine_unavailable` once this is closed."""
        try:
            return asyncio.get_running_loop().run_in_executor(self._executor, lambda: work(self._client(seconds)))
        except RuntimeError as error:
            raise unavailable(self._url, "the connection to it is closed, as this daemon is ending") from error

    def admit(self) -> None:
        """Raises `engine_unavailable` at once while the breaker is open. Else the call must be judged or answered."""
        now = asyncio.get_running_loop().time()
        if not self._breaker.admits(now):
            wait = self._breaker.waits(now)
            raise unavailable(
                self._url, f"{self._limits.breaker_failures} calls in a row failed, next try in {wait:.0f} s"
            )

    def answered(self, result: T) -> T:
        """Tell the breaker of an answer; returns it."""
        self._breaker.succeeded()
        return result

    def judged(self, error: BaseException) -> BaseException:
        """Tell the breaker how a call failed; returns the error to raise in its place, which may be the same."""
        if not isinstance(error, Exception):
            self._breaker.abandoned()  # the caller went away
            return error
        if not is_silence(error):
            self._breaker.succeeded()
            return error
        self._breaker.failed(asyncio.get_running_loop().time())
        return unavailable(self._url, silence_cause(error))

    def _client(self, seconds: float) -> Client:
        self._reach(seconds)
        with self._lock:
            client = self._clients.get(seconds)
        if client is None:
            # Asks the engine for its version, so it is made outside the lock; a second one made meanwhile is closed.
            made = docker.APIClient(
                self._url, version="auto", timeout=ceil(seconds), max_pool_size=self._limits.threads
            )
            made.trust_env = False  # no proxy and no netrc on a local socket
            with self._lock:
                client = self._clients.setdefault(seconds, made)
            if client is not made:
                made.close()
        return client

    def _reach(self, seconds: float) -> None:
        # Tells precisely what is wrong with the socket; the SDK would leave its own unclosed.
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(seconds)
            probe.connect(self._url.removeprefix("unix://"))

    async def close(self) -> None:
        """Refuse new work, drop what has not begun, wait for what runs at most one call's time. Idempotent."""
        ended = threading.Thread(target=self._executor.shutdown, kwargs={"cancel_futures": True}, daemon=True)
        ended.start()
        await asyncio.to_thread(ended.join, self._limits.call_seconds)
        with self._lock:
            clients, self._clients = [*self._clients.values()], {}
        for client in clients:
            client.close()
