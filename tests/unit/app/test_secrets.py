"""Stored secrets: what may be stored, who gets it, and that both keys of a change open what they must."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from perstackd.adapters.store.sqlite import open_store
from perstackd.app.secret_rotation import SecretRotation
from perstackd.app.secrets import SecretOrder, Secrets
from perstackd.domain.errors import PerstackError
from perstackd.domain.expert import BaseSkill, Expert
from perstackd.domain.ids import DEFAULT_TENANT, JobId
from perstackd.domain.secret import MAX_SECRETS, PROVIDERS, ROUTES, tenant_owner
from perstackd.ports.event_store import Store
from tests.contracts.test_secret_rows import add_job
from tests.fakes.clock import FakeClock
from tests.fakes.secrets import FakeMasterKeys
from tests.fakes.store import FakeStore

pytestmark = pytest.mark.anyio
OWNER = tenant_owner(DEFAULT_TENANT)
VALUE = "token-1234567890"
EXPERT = Expert("bot", "x", base=BaseSkill(required_env=("TOKEN",)))


def order(name: str = "TOKEN", value: str = VALUE, *experts: str, owner: str = OWNER, **more: bool) -> SecretOrder:
    return SecretOrder(owner, name, value.encode(), experts, **more)


async def opened(store: Store | None = None, keys: FakeMasterKeys | None = None) -> Secrets:
    return await Secrets.opened((store or FakeStore()).secrets, keys or FakeMasterKeys(), FakeClock())


async def refused(secrets: Secrets, wrong: SecretOrder) -> str:
    with pytest.raises(PerstackError) as caught:
        await secrets.put(wrong)
    assert wrong.value.decode("utf-8", "replace") not in f"{caught.value} {caught.value.fields}" or len(wrong.value) < 2
    return caught.value.reason


# --- what is stored and who gets it ---------------------------------------------------------------------------------
async def test_a_stored_value_reaches_an_expert_that_requires_it_and_the_next_process() -> None:
    store = FakeStore()
    secrets = await opened(store)
    await secrets.put(order())
    for each in (secrets, await opened(store)):
        assert each.granted(DEFAULT_TENANT, "bot") == {"TOKEN"}
        assert each.released(DEFAULT_TENANT, EXPERT, {}) == {"TOKEN": VALUE}
        assert [secret.name for secret in each.listed(OWNER)] == ["TOKEN"]
    rows = repr(store.secrets.__dict__) + repr(secrets.listed(OWNER))
    assert VALUE not in rows


async def test_a_value_that_was_sent_with_the_job_wins() -> None:
    secrets = await opened()
    await secrets.put(order())
    assert secrets.released(DEFAULT_TENANT, EXPERT, {"TOKEN": "sent", "OTHER": "x"}) == {"TOKEN": "sent"}


async def test_a_grant_names_who_gets_it_and_stays_until_it_is_changed() -> None:
    secrets = await opened()
    await secrets.put(order("TOKEN", VALUE, "writer"))
    with pytest.raises(PerstackError) as caught:
        secrets.released(DEFAULT_TENANT, EXPERT, {})
    assert (caught.value.reason, secrets.granted(DEFAULT_TENANT, "bot")) == ("secret_missing", frozenset())
    await secrets.put(order("TOKEN", "another-value"))
    assert secrets.granted(DEFAULT_TENANT, "bot") == frozenset()
    assert secrets.granted(DEFAULT_TENANT, "writer") == {"TOKEN"}
    await secrets.put(order("TOKEN", "another-value", all_experts=True))
    assert secrets.released(DEFAULT_TENANT, EXPERT, {}) == {"TOKEN": "another-value"}


async def test_tenants_and_providers_have_stores_of_their_own() -> None:
    secrets = await opened()
    await secrets.put(order())
    await secrets.put(order("anthropic", "sk-ant-1234", owner=PROVIDERS))
    assert secrets.provider_key("anthropic") == "sk-ant-1234"
    assert secrets.provider_key("openai") is None
    assert secrets.listed(tenant_owner(DEFAULT_TENANT)) == secrets.listed(OWNER)
    assert [each.name for each in secrets.listed("tenant:other")] == []
    assert {each.owner for each in secrets.listed(PROVIDERS)} == {PROVIDERS}


async def test_a_value_of_routes_is_no_experts_and_no_experts_value_is_one_of_routes() -> None:
    secrets = await opened()
    await secrets.put(order("TOKEN", "for-the-proxy", owner=ROUTES))
    assert secrets.route_value("TOKEN") == "for-the-proxy"
    assert secrets.granted(DEFAULT_TENANT, EXPERT.key) == frozenset()
    with pytest.raises(PerstackError, match="TOKEN"):
        secrets.released(DEFAULT_TENANT, EXPERT, {})
    await secrets.put(order("OTHER"))
    assert secrets.route_value("OTHER") is None
    await secrets.put(order("TOKEN", "another", owner=ROUTES))
    assert secrets.route_value("TOKEN") == "another"


async def test_a_removed_secret_is_given_to_nobody() -> None:
    secrets = await opened()
    await secrets.put(order())
    await secrets.remove(OWNER, "TOKEN")
    with pytest.raises(PerstackError, match="TOKEN"):
        secrets.released(DEFAULT_TENANT, EXPERT, {})
    with pytest.raises(PerstackError) as caught:
        await secrets.remove(OWNER, "TOKEN")
    assert caught.value.reason == "secret_not_found"


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (order("lower"), "secret_name_invalid"),
        (order("1A"), "secret_name_invalid"),
        (order("A" * 129), "secret_name_invalid"),
        (order("A\n"), "secret_name_invalid"),
        (order("Anthropic", owner=PROVIDERS), "secret_name_invalid"),
        (order(value=""), "secret_value_invalid"),
        (order(value="x" * 65_537), "secret_value_invalid"),
        (order(value="a\0b"), "secret_value_invalid"),
        (SecretOrder(OWNER, "TOKEN", b"\xff\xfe"), "secret_value_invalid"),
        (order("TOKEN", VALUE, "no blanks"), "secret_grant_invalid"),
        (order("TOKEN", VALUE, *(f"e{number}" for number in range(65))), "secret_grant_invalid"),
        (order("TOKEN", VALUE, "bot", all_experts=True), "secret_grant_invalid"),
        (order("anthropic", VALUE, "bot", owner=PROVIDERS), "secret_grant_invalid"),
        (order("TOKEN", VALUE, "bot", owner=ROUTES), "secret_grant_invalid"),
        (order("lower", owner=ROUTES), "secret_name_invalid"),
    ],
)
async def test_what_cannot_be_stored_is_refused_with_its_reason(wrong: SecretOrder, reason: str) -> None:
    assert await refused(await opened(), wrong) == reason


async def test_an_owner_has_a_bounded_number_of_secrets_and_may_replace_them() -> None:
    secrets = await opened()
    for number in range(MAX_SECRETS):
        await secrets.put(order(f"T_{number}"))
    assert await refused(secrets, order("ONE_MORE")) == "too_many_secrets"
    await secrets.put(order("T_0", "another"))


async def test_a_full_disk_changes_nothing() -> None:
    store = FakeStore()
    secrets = await opened(store)
    await secrets.put(order())
    store.fail_writes = True
    assert await refused(secrets, order(value="another-value")) == "store_unavailable"
    assert secrets.released(DEFAULT_TENANT, EXPERT, {}) == {"TOKEN": VALUE}


async def test_a_value_that_is_moved_to_another_name_does_not_open() -> None:
    secrets = await opened()
    moved = replace(await secrets.put(order()), name="OTHER")
    secrets.index.adopt([moved])
    with pytest.raises(PerstackError) as caught:
        secrets.index.value(moved)
    assert caught.value.reason == "seal_broken"


# --- changes of keys ------------------------------------------------------------------------------------------------
@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with await open_store(tmp_path / "state") as store:
        yield store


async def filled(store: Store, keys: FakeMasterKeys, count: int = 3) -> tuple[Secrets, SecretRotation, list[JobId]]:
    secrets = await opened(store, keys)
    for number in range(count):
        await secrets.put(order(f"TOKEN_{number:02}", f"value-{number}-{VALUE}"))
    await secrets.put(order("anthropic", "sk-ant-1234", owner=PROVIDERS))
    jobs = [await sealed_job(store, keys, number) for number in range(count)]
    return secrets, SecretRotation(secrets, store.sealed_envs), jobs


async def sealed_job(store: Store, keys: FakeMasterKeys, number: int) -> JobId:
    job_id = JobId(f"01JD3Z00000000000000000{number:03d}")
    return await add_job(store, number, keys.seal(b"of a job", f"job:{job_id}"))


async def readable(store: Store, keys: FakeMasterKeys, jobs: list[JobId], count: int = 3) -> None:
    secrets = await opened(store, keys)
    values = [secrets.index.value(secret).decode() for secret in secrets.listed(OWNER)]
    assert values[:count] == [f"value-{number}-{VALUE}" for number in range(count)]
    assert secrets.provider_key("anthropic") == "sk-ant-1234"
    for job_id in jobs:
        assert keys.open(await store.jobs.sealed_env(job_id), f"job:{job_id}") == b"of a job"


async def test_new_data_keys_take_the_place_of_the_old_ones(store: Store) -> None:
    keys = FakeMasterKeys()
    secrets, rotation, jobs = await filled(store, keys)
    before = await store.secrets.kept()
    done = await rotation.data_keys()
    after = await store.secrets.kept()
    assert (done.secrets, done.data_keys, done.key_id) == (4, 2, keys.key_id)
    assert [key.number for key in after.data_keys] == [2, 2]
    assert {key.wrapped for key in before.data_keys}.isdisjoint(key.wrapped for key in after.data_keys)
    assert {each.sealed for each in before.secrets}.isdisjoint(each.sealed for each in after.secrets)
    await readable(store, keys, jobs)
    await secrets.put(order("LATER", "after-it"))


async def test_a_new_master_key_wraps_everything_and_the_old_one_is_needed_no_more(store: Store) -> None:
    keys = FakeMasterKeys()
    _, rotation, jobs = await filled(store, keys)
    done = await rotation.master_key("file:/fake/two")
    assert (done.data_keys, done.jobs, done.unreadable, done.source) == (2, 3, 0, "file:/fake/two")
    assert (await store.secrets.kept()).master_ids == (keys.key_id,)
    await readable(store, FakeMasterKeys("file:/fake/two"), jobs)


async def test_the_key_that_is_in_use_and_one_that_cannot_be_opened_change_nothing(store: Store) -> None:
    keys = FakeMasterKeys(lost=("file:/fake/lost",))
    _, rotation, jobs = await filled(store, keys)
    for source, reason in (("file:/fake/one", "master_key_same"), ("file:/fake/lost", "key_file_missing")):
        with pytest.raises(PerstackError) as caught:
            await rotation.master_key(source)
        assert caught.value.reason == reason
    assert (await store.secrets.kept()).rotation is None
    await readable(store, FakeMasterKeys(), jobs)


async def test_one_broken_record_does_not_keep_the_others_under_the_old_key(store: Store) -> None:
    keys = FakeMasterKeys()
    _, rotation, jobs = await filled(store, keys)
    await add_job(store, 900, keys.seal(b"x", "job:of-another"))
    done = await rotation.master_key("file:/fake/two")
    assert (done.jobs, done.unreadable) == (3, 1)
    await readable(store, keys, jobs)


async def test_a_second_change_at_the_same_time_is_refused(store: Store) -> None:
    secrets, rotation, _ = await filled(store, FakeMasterKeys())
    async with anyio.create_task_group() as tasks:
        await secrets.changing.acquire()
        tasks.start_soon(rotation.data_keys)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(PerstackError) as caught:
            await rotation.master_key("file:/fake/two")
        secrets.changing.release()
    assert caught.value.reason == "rotation_running"


class Load:
    """Others who read, write and make jobs until `done`."""

    def __init__(self, store: Store, secrets: Secrets, keys: FakeMasterKeys) -> None:
        self.done = anyio.Event()
        self.born: list[JobId] = []
        self.reads = self.writes = 0
        self._store, self._secrets, self._keys = store, secrets, keys

    async def read(self) -> None:
        while not self.done.is_set():
            for secret in self._secrets.listed(OWNER):
                assert self._secrets.index.value(secret).decode().endswith(VALUE)
                self.reads += 1
            assert self._secrets.provider_key("anthropic") == "sk-ant-1234"
            await asyncio.sleep(0.001)

    async def write(self) -> None:
        while not self.done.is_set():
            self.writes += 1
            name = f"X_{self.writes % 7}"
            await self._secrets.put(order(name, f"{self.writes}-{VALUE}"))
            if self.writes % 3 == 0:
                await self._secrets.remove(OWNER, name)

    async def create(self) -> None:
        while not self.done.is_set() and len(self.born) < 300:
            self.born.append(await sealed_job(self._store, self._keys, 100 + len(self.born)))


async def test_keys_change_under_load_without_anybody_noticing(store: Store) -> None:
    keys = FakeMasterKeys()
    secrets, rotation, jobs = await filled(store, keys, count=5)
    load = Load(store, secrets, keys)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for work in (load.read, load.write, load.create):
                tasks.start_soon(work)
            for number in range(3):
                await rotation.data_keys()
                await rotation.master_key(f"file:/fake/{number}")
            load.done.set()
    assert min(load.reads, load.writes, len(load.born)) > 10
    assert (await store.secrets.kept()).master_ids == (keys.key_id,)
    await readable(store, FakeMasterKeys("file:/fake/2"), [*jobs, *load.born], count=5)


class DeadError(Exception):
    """The process is gone."""


def dying(store: Store, after: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Let `after` writes of secrets through and die at the next one."""
    writes = [0]
    for part, names in (
        (store.secrets, ("put", "drop_data_keys", "set_rotation")),
        (store.sealed_envs, ("replace",)),
    ):
        for name in names:
            original = getattr(part, name)

            async def counted(*given: object, original: Callable[..., object] = original) -> object:
                writes[0] += 1
                if writes[0] > after:
                    raise DeadError
                return await original(*given)  # type: ignore[misc]

            monkeypatch.setattr(part, name, counted)
    return lambda: writes[0]


@pytest.mark.parametrize("kind", ["data", "master"])
async def test_a_death_at_any_write_leaves_everything_readable_and_the_next_process_completes_it(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    after = 0
    while True:
        async with await open_store(tmp_path / f"{os.urandom(4).hex()}") as store:
            _, rotation, jobs = await filled(store, FakeMasterKeys())
            with monkeypatch.context() as patched:
                dying(store, after, patched)
                try:
                    await (rotation.data_keys() if kind == "data" else rotation.master_key("file:/fake/two"))
                    completed = True
                except DeadError:
                    completed = False
            # The next process knows the configured key, and the other one by the note of the change.
            keys, kept = FakeMasterKeys(), await store.secrets.kept()
            if kept.rotation is not None:
                keys.prefer(await keys.take(kept.rotation.to_source))
            assert set(kept.master_ids) <= {FakeMasterKeys().key_id, keys.key_id}
            await readable(store, keys, jobs)
            await SecretRotation(await opened(store, keys), store.sealed_envs).resume()
            await readable(store, keys, jobs)
            kept = await store.secrets.kept()
            assert kept.master_ids == (keys.key_id,)
            assert len({key.owner for key in kept.data_keys}) == len(kept.data_keys)
        if completed:
            break
        after += 1
    assert after >= 5
