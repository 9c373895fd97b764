"""Stored secrets in jobs: who is given what, and that what is given never comes back."""

import base64
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest

from perstackd.app.scrubbing import Scrubbing
from perstackd.app.secrets import SecretOrder, Secrets
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.ids import DEFAULT_TENANT
from perstackd.domain.job import JobState
from perstackd.domain.messages import BlobPart, TextPart, ToolResultPart
from perstackd.domain.secret import tenant_owner
from perstackd.domain.session import BlobChunk, Progress, RoutedCall
from tests.fakes.acting_runner import ActingRunnerLink
from tests.fakes.clock import FakeClock
from tests.fakes.secrets import FakeMasterKeys
from tests.fakes.store import FakeStore
from tests.unit.app.daemon_in_memory import World, world
from tests.unit.app.test_jobs import HELPER, LEAD, calls, says

pytestmark = pytest.mark.anyio
OWNER = tenant_owner(DEFAULT_TENANT)
VALUE = 'tok"en/äé 1234567890+'
LABEL = "[secret TOKEN]"
NEEDS = """
[experts.lead]
instruction = "Lead."
delegates = ["helper"]
[experts.lead.skills."@perstack/base"]
requiredEnv = ["TOKEN"]
[experts.helper]
instruction = "Help."
[experts.helper.skills."@perstack/base"]
requiredEnv = ["HELPER_TOKEN"]
"""
TURNS = {
    LEAD: [calls(("d", "helper", {"query": "plan"})), calls(("a", "exec", {})), says("done")],
    HELPER: [says("the plan")],
}


@asynccontextmanager
async def stored(root: Path, *orders: SecretOrder) -> AsyncIterator[tuple[World, Secrets, Scrubbing]]:
    """A daemon with these secrets."""
    store, scrubbing = FakeStore(), Scrubbing()
    secrets = await Secrets.opened(store.secrets, FakeMasterKeys(), FakeClock())
    for order in orders:
        await secrets.put(order)
    async with world(
        root, TURNS, store=store, change=lambda each: replace(each, secrets=secrets, scrubbing=scrubbing)
    ) as daemon:
        yield daemon, secrets, scrubbing


def order(name: str, value: str, *experts: str) -> SecretOrder:
    return SecretOrder(OWNER, name, value.encode(), experts)


def assigned(daemon: World, expert: str) -> ActingRunnerLink:
    """The link of an expert's sandbox."""
    links = [link for link in daemon.links.made.values() if isinstance(link, ActingRunnerLink)]
    (found,) = [link for link in links if link.assigned and link.assigned.expert_key == expert]
    return found


def given(daemon: World, expert: str) -> dict[str, str]:
    """What the sandbox of an expert got for exec."""
    order = assigned(daemon, expert).assigned
    return dict(order.exec_env) if order is not None else {}


async def test_a_stored_secret_reaches_only_the_expert_that_requires_it(tmp_path: Path) -> None:
    async with stored(tmp_path, order("TOKEN", VALUE), order("HELPER_TOKEN", "of-the-helper")) as (daemon, _, _):
        record, events = await daemon.finished(NEEDS)
        assert (given(daemon, "lead"), given(daemon, "helper")) == ({"TOKEN": VALUE}, {"HELPER_TOKEN": "of-the-helper"})
    assert record.state is JobState.COMPLETED
    released = [event.payload.name for event in events if event.payload.type == "secretReleased"]
    assert sorted(released) == ["HELPER_TOKEN", "TOKEN"]


async def test_a_value_that_is_sent_wins_and_a_missing_one_is_refused_with_its_expert(tmp_path: Path) -> None:
    async with stored(tmp_path, order("TOKEN", VALUE)) as (daemon, _, _):
        with pytest.raises(PerstackError) as caught:
            await daemon.start(NEEDS)
        assert (caught.value.kind, caught.value.reason) == (Kind.INVALID, "env_missing")
        assert "HELPER_TOKEN (helper)" in caught.value.message
        assert " TOKEN" not in caught.value.message
        await daemon.finished(NEEDS, env={"TOKEN": "sent-with-it", "HELPER_TOKEN": "sent-too"})
        assert given(daemon, "lead") == {"TOKEN": "sent-with-it"}


async def test_a_secret_that_is_granted_to_another_expert_counts_as_missing(tmp_path: Path) -> None:
    async with stored(tmp_path, order("TOKEN", VALUE, "lead"), order("HELPER_TOKEN", "x-x-x-x-x", "lead")) as (
        daemon,
        *_,
    ):
        with pytest.raises(PerstackError) as caught:
            await daemon.start(NEEDS)
    assert caught.value.reason == "env_missing"
    assert "HELPER_TOKEN (helper)" in caught.value.message


async def test_a_secret_that_is_removed_before_its_run_is_claimed_ends_that_run_with_its_name(tmp_path: Path) -> None:
    async with stored(tmp_path, order("TOKEN", VALUE), order("HELPER_TOKEN", "of-the-helper")) as (daemon, secrets, _):
        record = await daemon.start(NEEDS)
        await secrets.remove(OWNER, "HELPER_TOKEN")
        events = await daemon.events(record.id)
    results = json.dumps([str(event.payload) for event in events])
    assert "HELPER_TOKEN" in results
    assert "were removed or are not granted" in results


FORMS: dict[str, Callable[[str], str]] = {
    "raw": str,
    "base64": lambda value: base64.b64encode(value.encode()).decode(),
    "base64 after one": lambda value: base64.b64encode(b"x" + value.encode()).decode(),
    "base64 after two": lambda value: base64.b64encode(b"xy" + value.encode()).decode(),
    "url": lambda value: quote(value, safe=""),
    "json": lambda value: json.dumps({"key": value}),
}


@pytest.mark.parametrize("form", list(FORMS))
async def test_what_a_tool_prints_of_a_secret_is_in_no_event_stream_blob_or_log(tmp_path: Path, form: str) -> None:
    printed = f"before {FORMS[form](VALUE)} after"
    blob = printed.encode()
    digest = f"sha256:{hashlib.sha256(blob).hexdigest()}"
    async with stored(tmp_path, order("TOKEN", VALUE), order("HELPER_TOKEN", "of-the-helper")) as (
        daemon,
        _,
        scrubbing,
    ):

        def tool(call: RoutedCall) -> ToolResultPart:
            half = len(blob) // 2
            link = assigned(daemon, "lead")
            link.push(Progress(call.call_id, 0, printed[:20]))
            link.push(Progress(call.call_id, len(printed[:20].encode()), printed[20:]))
            link.push(BlobChunk(digest, 0, blob[:half], False))
            link.push(BlobChunk(digest, half, blob[half:], True))
            content = (TextPart(printed), BlobPart(digest, len(blob), "text/plain"))
            return ToolResultPart(call.call_id, content)

        daemon.links.tool = tool
        record = await daemon.start(NEEDS)
        shown: list[str] = []
        stored_texts: list[bytes] = []
        async for batch in daemon.jobs.watch(record.id, 0, streaming=True, follow=True):
            shown += [piece.delta for piece in batch.pieces if piece.type == "streamToolOutput"]
            stored_texts += [each.document for each in batch.events]
        assert scrubbing.text(printed) == printed.replace(FORMS[form](VALUE), scrubbing.text(FORMS[form](VALUE)))
        kept = b"\n".join(daemon.store.contents.values())
    everything = b"\n".join([*stored_texts, kept, "".join(shown).encode()]).decode()
    assert everything.count(LABEL) >= 3
    assert "before " in "".join(shown)
    assert " after" in "".join(shown)
    core = FORMS[form](VALUE).strip("=")[4:-4]
    assert core not in everything
    assert json.dumps(core)[1:-1] not in everything
    assert "result_lost" not in everything
