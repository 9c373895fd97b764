"""What the daemon does with signals, and with a model provider that cannot be made ready."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from perstackd.adapters.models import assembly
from perstackd.adapters.models.replay import ReplayModels
from perstackd.adapters.models.router import ModelRouter
from perstackd.adapters.signals import Signals, StoppedWhileStartingError
from perstackd.config import Config

pytestmark = pytest.mark.anyio


async def test_a_signal_during_the_start_cancels_it_once_and_lets_it_clean_up() -> None:
    signals, cleaned = Signals(), list[str]()
    with pytest.raises(StoppedWhileStartingError):  # noqa: PT012 - the signal comes inside
        async with asyncio.timeout(5), signals.starting():
            os.kill(os.getpid(), signal.SIGTERM)
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)  # a second cancellation would end this
                cleaned.append("all")
    assert cleaned == ["all"]


async def test_a_signal_after_the_start_is_waited_for_and_a_second_one_is_told_apart() -> None:
    signals = Signals()
    async with signals.starting():
        pass
    async with asyncio.timeout(5):
        os.kill(os.getpid(), signal.SIGTERM)
        await signals.first()
        os.kill(os.getpid(), signal.SIGINT)
        await signals.second()


async def test_a_timeout_of_the_start_itself_is_not_taken_for_a_signal() -> None:
    signals = Signals()
    with pytest.raises(TimeoutError):
        async with signals.starting():
            raise TimeoutError


@pytest.mark.parametrize("broken", [OSError("no SDK"), ValueError("s3cret")])
async def test_a_provider_that_cannot_be_made_ready_does_not_end_the_daemon(
    broken: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def warm(_: Any) -> None:
        raise broken

    monkeypatch.setattr(ReplayModels, "warm", warm)
    config = Config(models={"default_provider": "replay", "replay": {"file": "/nowhere/at/all"}})
    router = ModelRouter({"replay": lambda: ReplayModels(Path("/nowhere/at/all"))})
    await assembly.warm(config.models, router)
    await router.close()
