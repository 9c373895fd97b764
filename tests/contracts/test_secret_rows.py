"""What the rows of secrets promise, held by those in memory and those on disk."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from perstackd.adapters.secrets.sealer import AesSealer
from perstackd.adapters.store.sqlite import open_store
from perstackd.domain.ids import DEFAULT_TENANT, JobId
from perstackd.domain.job import JobRecord, JobState
from perstackd.domain.secret import PROVIDERS, DataKey, MasterRotation, SealedEnv, Secret
from perstackd.domain.workspace import WorkspaceSpec
from perstackd.ports.event_store import Store
from tests.fakes.store import FakeStore

pytestmark = pytest.mark.anyio
ONE, TWO = AesSealer(b"1" * 32), AesSealer(b"2" * 32)
OWNER = "tenant:default"
KEY = DataKey(OWNER, 1, ONE.key_id, b"wrapped-1", 5)
SECRET = Secret(OWNER, "TOKEN", ("b", "a"), 1, b"sealed-1", 5, 6)
CHANGE = MasterRotation(ONE.key_id, "file:/one", TWO.key_id, "file:/two")


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    if request.param == "memory":
        yield FakeStore()
    else:
        async with await open_store(tmp_path / "state") as store:
            yield store


async def add_job(store: Store, number: int, sealed: bytes) -> JobId:
    job_id = JobId(f"01JD3Z00000000000000000{number:03d}")
    record = JobRecord(
        id=job_id,
        tenant=DEFAULT_TENANT,
        state=JobState.QUEUED,
        expert_key="e",
        query="q",
        created_at=1,
        workspace=WorkspaceSpec(),
        provider="p",
        model="m",
        definition_digest="sha256:" + "0" * 64,
    )
    await store.create(record, [], sealed)
    return job_id


async def end(store: Store, job_id: JobId) -> None:
    record = await store.jobs.get(job_id)
    assert record is not None
    await store.append(replace(record, state=JobState.COMPLETED), [])


async def test_what_was_put_is_kept_and_replaced_by_name(store: Store) -> None:
    other = replace(SECRET, owner=PROVIDERS, name="anthropic", experts=())
    await store.secrets.put([SECRET, other], [KEY, replace(KEY, owner=PROVIDERS)])
    changed = replace(SECRET, experts=(), sealed=b"sealed-2", updated_at=9)
    await store.secrets.put([changed])
    kept = await store.secrets.kept()
    assert kept.secrets == (other, changed)
    assert kept.data_keys == (replace(KEY, owner=PROVIDERS), KEY)
    assert kept.master_ids == (ONE.key_id,)


async def test_a_data_key_that_is_wrapped_anew_takes_its_own_place(store: Store) -> None:
    await store.secrets.put([SECRET], [KEY])
    wrapped = replace(KEY, master_id=TWO.key_id, wrapped=b"wrapped-2")
    await store.secrets.put([], [wrapped])
    kept = await store.secrets.kept()
    assert (kept.secrets, kept.data_keys, kept.master_ids) == ((SECRET,), (wrapped,), (TWO.key_id,))


async def test_a_removed_secret_is_gone_and_a_second_removal_says_so(store: Store) -> None:
    await store.secrets.put([SECRET], [KEY])
    assert await store.secrets.remove(OWNER, "TOKEN") is True
    assert await store.secrets.remove(OWNER, "TOKEN") is False
    assert (await store.secrets.kept()).secrets == ()


async def test_only_older_data_keys_that_nothing_needs_are_dropped(store: Store) -> None:
    keys = [replace(KEY, number=number) for number in (1, 2, 3)]
    await store.secrets.put([replace(SECRET, key_number=1)], keys)
    await store.secrets.drop_data_keys(OWNER, 3)
    assert [key.number for key in (await store.secrets.kept()).data_keys] == [1, 3]


async def test_a_change_of_the_master_key_is_noted_replaced_and_taken_off(store: Store) -> None:
    assert (await store.secrets.kept()).rotation is None
    await store.secrets.set_rotation(CHANGE)
    await store.secrets.set_rotation(replace(CHANGE, to_source="file:/three"))
    assert (await store.secrets.kept()).rotation == replace(CHANGE, to_source="file:/three")
    await store.secrets.set_rotation(None)
    assert (await store.secrets.kept()).rotation is None


async def test_jobs_values_under_another_master_key_are_found_page_by_page(store: Store) -> None:
    old = [await add_job(store, number, ONE.seal(b"{}", "x")) for number in (1, 2, 3)]
    await add_job(store, 4, TWO.seal(b"{}", "x"))
    await add_job(store, 5, b"")
    assert (await store.secrets.kept()).master_ids == tuple(sorted((ONE.key_id, TWO.key_id)))
    first = await store.sealed_envs.under_others(TWO.key_id, "", 2)
    rest = await store.sealed_envs.under_others(TWO.key_id, first[-1].job_id, 2)
    assert [env.job_id for env in (*first, *rest)] == old
    assert await store.sealed_envs.under_others(TWO.key_id, rest[-1].job_id, 2) == ()


async def test_jobs_values_are_replaced_only_where_they_are_still_the_same(store: Store) -> None:
    job_id = await add_job(store, 1, ONE.seal(b"{}", "x"))
    (env,) = await store.sealed_envs.under_others(TWO.key_id, "", 10)
    new = TWO.seal(b"{}", "x")
    assert await store.sealed_envs.replace(env, new) is True
    assert await store.jobs.sealed_env(job_id) == new
    assert await store.sealed_envs.replace(env, b"x" * 60) is False
    await end(store, job_id)
    assert await store.sealed_envs.replace(SealedEnv(job_id, new), env.sealed) is False


async def test_what_is_no_sealed_value_has_no_key(store: Store) -> None:
    await add_job(store, 1, b"short")
    assert (await store.secrets.kept()).master_ids == ()
