"""Where master keys are, and that a daemon with the wrong one does not start."""

import base64
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from perstackd.adapters.secrets.master_key import read_master_key
from perstackd.adapters.secrets.master_keys import MasterKeyRing, open_master_keys
from perstackd.adapters.secrets.sealer import AesSealer
from perstackd.adapters.store.sqlite import open_store
from perstackd.app.secret_rotation import SecretRotation
from perstackd.app.secrets import SecretOrder, Secrets
from perstackd.config import Config
from perstackd.domain.errors import PerstackError
from perstackd.ports.event_store import Store
from tests.fakes.clock import FakeClock

pytestmark = pytest.mark.anyio


def key_file(path: Path, number: int = 1, mode: int = 0o600) -> str:
    path.write_bytes(base64.b64encode(bytes([number]) * 32) + b"\n")
    path.chmod(mode)
    return f"file:{path}"


def id_of(number: int) -> str:
    return AesSealer(bytes([number]) * 32).key_id


def refusal(source: str) -> PerstackError:
    with pytest.raises(PerstackError) as caught:
        read_master_key(source)
    return caught.value


# --- where keys are -------------------------------------------------------------------------------------------------
def test_a_named_file_holds_the_key_and_is_never_made(tmp_path: Path) -> None:
    assert read_master_key(key_file(tmp_path / "key")).key_id == id_of(1)
    error = refusal(f"file:{tmp_path}/none")
    assert error.reason == "key_file_missing"
    assert "base64" in error.message
    assert not (tmp_path / "none").exists()


def test_a_file_that_others_may_read_or_that_is_a_strangers_is_refused(tmp_path: Path) -> None:
    assert refusal(key_file(tmp_path / "wide", mode=0o640)).reason == "key_file_unsafe"
    source = key_file(tmp_path / "strange")
    os.chown(tmp_path / "strange", 12345, -1)
    assert refusal(source).reason == "key_file_unsafe"
    (tmp_path / "link").symlink_to(tmp_path / "wide")
    assert refusal(f"file:{tmp_path}/link").reason == "key_file_unavailable"


def test_a_systemd_credential_is_read_from_its_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert "LoadCredential" in refusal("systemd:master").message
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert refusal("systemd:master").reason == "credentials_missing"
    key_file(tmp_path / "master", mode=0o400)
    assert read_master_key("systemd:master").key_id == id_of(1)


@pytest.mark.parametrize(
    "source", ["", "file:relative", "systemd:../x", "systemd:", "keyring:", "vault:x", "file:/a\nb"]
)
def test_a_name_of_another_form_is_refused(source: str) -> None:
    assert refusal(source).reason == "master_key_source_invalid"
    if source:
        with pytest.raises(ValueError, match="master_key"):
            Config(secrets={"master_key": source})


@pytest.mark.parametrize("source", ["", "file:/etc/perstackd/key", "systemd:perstackd-key", "keyring:perstackd"])
def test_the_configuration_takes_each_form(source: str) -> None:
    assert Config(secrets={"master_key": source}).secrets.master_key == source


# --- at the start ---------------------------------------------------------------------------------------------------
@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with await open_store(tmp_path / "state") as store:
        yield store


async def begin(store: Store, default: Path, configured: str = "") -> Secrets:
    """What the daemon does when it starts."""
    keys = await open_master_keys(configured, default, store.secrets)
    secrets = await Secrets.opened(store.secrets, keys, FakeClock())
    await SecretRotation(secrets, store.sealed_envs).resume()
    return secrets


async def start_refused(store: Store, default: Path, configured: str = "") -> PerstackError:
    with pytest.raises(PerstackError) as caught:
        await begin(store, default, configured)
    return caught.value


async def put(secrets: Secrets) -> None:
    await secrets.put(SecretOrder("tenant:default", "TOKEN", b"token-1234567890"))


def value(secrets: Secrets) -> bytes:
    (secret,) = secrets.listed("tenant:default")
    return secrets.index.value(secret)


async def test_the_default_file_is_made_once_and_never_again_when_something_is_sealed(
    store: Store, tmp_path: Path
) -> None:
    default = tmp_path / "master.key"
    await put(await begin(store, default))
    assert default.stat().st_mode & 0o777 == 0o600
    assert value(await begin(store, default)) == b"token-1234567890"
    kept = default.rename(tmp_path / "kept")
    error = await start_refused(store, default)
    assert error.reason == "key_file_missing"
    assert "sealed" in error.message
    assert not default.exists()
    kept.rename(default)
    assert value(await begin(store, default)) == b"token-1234567890"


async def test_another_key_is_refused_by_name_of_both_and_nothing_is_lost(store: Store, tmp_path: Path) -> None:
    right, wrong = key_file(tmp_path / "one", 1), key_file(tmp_path / "two", 2)
    await put(await begin(store, tmp_path / "d", right))
    before = await store.secrets.kept()
    error = await start_refused(store, tmp_path / "d", wrong)
    assert error.reason == "master_key_wrong"
    assert id_of(1) in error.message
    assert id_of(2) in error.message
    assert await store.secrets.kept() == before
    assert value(await begin(store, tmp_path / "d", right)) == b"token-1234567890"


async def test_with_nothing_sealed_any_key_will_do(store: Store, tmp_path: Path) -> None:
    for number in (1, 2):
        assert (await begin(store, tmp_path / "d", key_file(tmp_path / "key", number))).keys.key_id == id_of(number)


async def changed(store: Store, tmp_path: Path) -> tuple[str, str]:
    one, two = key_file(tmp_path / "one", 1), key_file(tmp_path / "two", 2)
    secrets = await begin(store, tmp_path / "d", one)
    await put(secrets)
    await SecretRotation(secrets, store.sealed_envs).master_key(two)
    return one, two


async def test_after_a_change_the_new_key_is_used_also_while_the_configuration_names_the_old_one(
    store: Store, tmp_path: Path
) -> None:
    one, two = await changed(store, tmp_path)
    for configured in (one, one, two):
        secrets = await begin(store, tmp_path / "d", configured)
        assert (secrets.keys.key_id, value(secrets)) == (id_of(2), b"token-1234567890")
    assert (await store.secrets.kept()).rotation is None
    (tmp_path / "one").unlink()
    assert value(await begin(store, tmp_path / "d", two)) == b"token-1234567890"
    assert (await start_refused(store, tmp_path / "d", key_file(tmp_path / "one", 1))).reason == "master_key_wrong"


async def test_the_new_key_that_is_gone_after_a_change_is_named(store: Store, tmp_path: Path) -> None:
    one, _ = await changed(store, tmp_path)
    (tmp_path / "two").unlink()
    error = await start_refused(store, tmp_path / "d", one)
    assert error.reason == "key_file_missing"
    assert id_of(2) in error.message


async def test_two_changes_in_a_row_name_the_last_key_to_who_configured_the_first(store: Store, tmp_path: Path) -> None:
    one, two = await changed(store, tmp_path)
    three = key_file(tmp_path / "three", 3)
    secrets = await begin(store, tmp_path / "d", one)
    await SecretRotation(secrets, store.sealed_envs).master_key(three)
    error = await start_refused(store, tmp_path / "d", one)
    assert error.reason == "master_key_wrong"
    assert three in error.message
    assert value(await begin(store, tmp_path / "d", two)) == b"token-1234567890"
    assert value(await begin(store, tmp_path / "d", three)) == b"token-1234567890"


async def test_a_change_that_was_not_begun_in_earnest_is_forgotten_with_its_key(store: Store, tmp_path: Path) -> None:
    """Death after the note and before the first record, and the new key file was thrown away."""
    one = key_file(tmp_path / "one", 1)
    secrets = await begin(store, tmp_path / "d", one)
    await put(secrets)
    ring = secrets.keys
    assert isinstance(ring, MasterKeyRing)

    async def nothing(*_: object) -> None:
        raise ConnectionError("the process is gone")

    rotation = SecretRotation(secrets, store.sealed_envs)
    secrets.rows.put, kept = nothing, secrets.rows.put  # type: ignore[method-assign, assignment]
    with pytest.raises(ConnectionError):
        await rotation.master_key(key_file(tmp_path / "two", 2))
    secrets.rows.put = kept  # type: ignore[method-assign]
    (tmp_path / "two").unlink()
    assert value(await begin(store, tmp_path / "d", one)) == b"token-1234567890"
    assert (await store.secrets.kept()).rotation is None
