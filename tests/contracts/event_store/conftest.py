"""The stores of the suite: the one in memory and the one on disk."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from perstackd.adapters.store.sqlite import open_store
from perstackd.ports.event_store import Store
from tests.contracts.event_store.stored import Subject, no_file_may_grow
from tests.fakes.store import FakeStore


@pytest.fixture(params=["memory", "sqlite"])
async def subject(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Subject]:
    if request.param == "memory":
        fake = FakeStore()

        @contextmanager
        def failing() -> Iterator[None]:
            fake.fail_writes = True
            yield
            fake.fail_writes = False

        yield Subject(fake, failing)
    else:
        async with await open_store(tmp_path / "state") as store:
            yield Subject(store, no_file_may_grow)


@pytest.fixture
def store(subject: Subject) -> Store:
    return subject.store
