"""What every test has: uvloop under anyio, and a detector that fails a test whose event loop is blocked."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
from blockbuster import BlockBuster, blockbuster_ctx

# uvloop forks to start a program, and handlers of forks that gRPC has crash such a child now and then where it serves.
# Read when gRPC is loaded. The product starts programs by vfork, which calls no handlers.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "false"


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return ("asyncio", {"use_uvloop": True})


@pytest.fixture(autouse=True)
def blocking_calls() -> Iterator[BlockBuster]:
    """Blocking calls made by our own code on the event loop raise BlockingError."""
    ours = ["perstackd", "perstackctl", "perstack_egress", "perstack_runner"]
    with blockbuster_ctx(scanned_modules=ours) as detector:
        yield detector


@pytest.fixture(scope="session", autouse=True)
def grpc_stays() -> None:
    """gRPC kept for the whole run: the last server or channel of a process waits on the loop for gRPC's own thread."""
    from grpc._cython import cygrpc  # type: ignore[attr-defined]

    cygrpc.init_grpc_aio()
