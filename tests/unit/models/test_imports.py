"""Which SDK is loaded when: that of the provider in use, when it is first used, and no other."""

import subprocess
import sys

import anyio.to_thread
import pytest

pytestmark = pytest.mark.anyio

PROGRAM = """
import sys
import anyio
from perstackd.adapters.models.router import ModelRouter
from perstackd.config import Config
from perstackd.adapters.models.assembly import providers
from tests.fakes.store import FakeStore

SDKS = {"anthropic", "openai", "httpx2", "google", "boto3"}
loaded = lambda: {name for name in SDKS & sys.modules.keys() if hasattr(sys.modules[name], "__file__")}
router = ModelRouter(providers(Config().models, FakeStore().blobs))
before = loaded() - {"google"}
assert before == set(), before

async def main():
    await router.provider(%r).warm()
    await router.close()

anyio.run(main)
after = loaded() - {"google"}
assert after == {%r, "httpx2"}, after
"""


@pytest.mark.parametrize(
    ("provider", "sdk"),
    [("anthropic", "anthropic"), ("openai", "openai"), ("deepseek", "openai"), ("ollama", "openai")],
)
async def test_a_provider_in_use_loads_its_sdk_and_no_other(provider: str, sdk: str) -> None:
    run = await anyio.to_thread.run_sync(
        lambda: subprocess.run(
            [sys.executable, "-c", PROGRAM % (provider, sdk)], check=False, capture_output=True, text=True, timeout=100
        )
    )
    assert run.returncode == 0, run.stderr
