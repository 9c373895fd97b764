"""One door to several providers: each is made when it is first asked for."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Final, Protocol, cast, runtime_checkable

from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.messages import ModelEvent, ModelRequest
from perstackd.ports.models import Models

NOT_YET: Final = frozenset({"amazon-bedrock", "google", "google-vertex"})
"""Providers of the original that have no adapter here."""


@runtime_checkable
class Keyed(Protocol):
    """An adapter that needs a key."""

    def check_key(self) -> None:
        """Raises DENIED `model_key_missing`."""
        ...


class ModelRouter:
    """Implements `Models`. `providers` maps names to what makes their adapter; it is called once, at the first request.

    A provider that is not there is UNSUPPORTED `provider_not_there`. After `close` nothing may be asked any more.
    """

    def __init__(self, providers: Mapping[str, Callable[[], Models]]) -> None:
        self._providers = dict(providers)
        self._made: dict[str, Models] = {}

    async def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        # Every implementation is an async generator; closing it is what ends the provider's call.
        events = cast("AsyncGenerator[ModelEvent, None]", self.provider(request.provider).stream(request))
        async with aclosing(events):
            async for event in events:
                yield event

    def problem(self, name: str) -> str:
        """Why nothing can be asked of that provider, as a sentence; empty when it is there. Makes no adapter."""
        return "" if name in self._providers else self._not_there(name).message

    def provider(self, name: str) -> Models:
        """The adapter of that name, made now if it was not yet. Raises `provider_not_there`."""
        if name not in self._made:
            if name not in self._providers:
                raise self._not_there(name)
            self._made[name] = self._providers[name]()
        return self._made[name]

    def check(self, name: str) -> None:
        """Whether it could be asked now, as far as this machine knows. Raises `provider_not_there`, DENIED
        `model_key_missing`.
        """
        adapter = self.provider(name)
        if isinstance(adapter, Keyed):
            adapter.check_key()

    async def close(self) -> None:
        """Close all that were made, each even if another fails; the first failure is raised at the end."""
        failures: list[Exception] = []
        while self._made:
            _, models = self._made.popitem()
            try:
                await models.close()
            except Exception as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def _not_there(self, name: str) -> PerstackError:
        there = ", ".join(sorted(self._providers)) or "none"
        absent = f"perstackd cannot speak to the model provider {name!r} yet; this daemon has: {there}."
        if name not in NOT_YET:
            absent = f"This daemon has no model provider {name[:100]!r}; it has: {there}."
        return PerstackError(
            Kind.UNSUPPORTED,
            "provider_not_there",
            f"{absent} Set `providerName` under [provider] to one of these, or ask the operator of perstackd to set "
            "models.compatible.NAME.base_url for one that speaks OpenAI's Chat Completions.",
            fields={"provider": name[:100], "providers": there},
        )
