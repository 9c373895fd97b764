"""The key file: made once, whole, for its owner only."""

import base64
import os
import stat
import threading
from pathlib import Path

import pytest

from perstackd.adapters.secrets.sealer import AesSealer
from perstackd.domain.errors import Kind, PerstackError


def refusal(path: Path, *, create: bool = True) -> PerstackError:
    with pytest.raises(PerstackError) as caught:
        AesSealer.from_key_file(path, create=create)
    return caught.value


def test_a_missing_key_file_is_made_for_its_owner_only_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        AesSealer.from_key_file(tmp_path / "master.key")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "master.key").stat().st_mode) == 0o600
    assert len(base64.b64decode((tmp_path / "master.key").read_bytes(), validate=False)) == 32
    assert [path.name for path in tmp_path.iterdir()] == ["master.key"]


def test_the_same_file_gives_the_same_key(tmp_path: Path) -> None:
    sealed = AesSealer.from_key_file(tmp_path / "master.key").seal(b"value", "job:1")
    assert AesSealer.from_key_file(tmp_path / "master.key", create=False).open(sealed, "job:1") == b"value"


def test_two_files_have_two_keys(tmp_path: Path) -> None:
    one, two = AesSealer.from_key_file(tmp_path / "1"), AesSealer.from_key_file(tmp_path / "2")
    assert one.key_id != two.key_id
    with pytest.raises(PerstackError) as caught:
        two.open(one.seal(b"value", "job:1"), "job:1")
    assert dict(caught.value.fields) == {"sealed_with": one.key_id, "key_id": two.key_id}


def test_all_who_make_the_key_at_once_get_the_same(tmp_path: Path) -> None:
    ids: list[str] = []
    together = threading.Barrier(8)

    def make() -> None:
        together.wait(10)
        ids.append(AesSealer.from_key_file(tmp_path / "master.key").key_id)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(ids) == 8
    assert len(set(ids)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["master.key"]


def test_a_missing_key_file_is_not_made_when_it_must_be_there(tmp_path: Path) -> None:
    error = refusal(tmp_path / "master.key", create=False)
    assert (error.kind, error.reason) == (Kind.PRECONDITION, "key_file_missing")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o700, 0o4600 | 0o070])
def test_a_wider_mode_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "master.key"
    AesSealer.from_key_file(path)
    path.chmod(mode)
    error = refusal(path)
    assert (error.kind, error.reason) == (Kind.PRECONDITION, "key_file_unsafe")
    assert "chmod 600" in error.message


def test_a_read_only_key_file_is_good(tmp_path: Path) -> None:
    made = AesSealer.from_key_file(tmp_path / "master.key")
    (tmp_path / "master.key").chmod(0o400)
    assert AesSealer.from_key_file(tmp_path / "master.key").key_id == made.key_id


def test_a_file_of_another_owner_than_root_or_the_daemon_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "master.key"
    made = AesSealer.from_key_file(path)
    os.chown(path, 12345, -1)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert AesSealer.from_key_file(path).key_id == made.key_id
    monkeypatch.setattr(os, "geteuid", lambda: 12346)
    error = refusal(path)
    assert error.reason == "key_file_unsafe"
    assert "belongs to uid" in error.message


def test_a_link_a_directory_and_a_pipe_are_refused(tmp_path: Path) -> None:
    AesSealer.from_key_file(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "directory").mkdir(mode=0o700)
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert refusal(tmp_path / "link").reason == "key_file_unavailable"
    assert refusal(tmp_path / "directory").reason in {"key_file_unsafe", "key_file_unavailable"}
    assert refusal(tmp_path / "pipe").reason == "key_file_unsafe"


@pytest.mark.parametrize("text", [b"", b"short", base64.b64encode(b"x" * 31), base64.b64encode(b"x" * 33), b"x" * 5000])
def test_a_file_without_a_key_is_refused_and_its_content_not_shown(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "master.key"
    path.write_bytes(text)
    path.chmod(0o600)
    error = refusal(path)
    assert (error.kind, error.reason) == (Kind.PRECONDITION, "key_file_invalid")
    assert not text or text.decode() not in error.message
    assert path.read_bytes() == text


def test_a_directory_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none" / "master.key").reason == "key_file_unavailable"


def test_neither_repr_nor_attributes_show_the_key(tmp_path: Path) -> None:
    sealer = AesSealer.from_key_file(tmp_path / "master.key")
    key = base64.b64decode((tmp_path / "master.key").read_bytes())
    shown = f"{sealer!r} {sealer} {vars(sealer)!r}"
    assert sealer.key_id in shown
    assert key.hex() not in shown
    assert repr(key)[2:-1] not in shown


def test_a_key_of_another_length_is_a_defect_of_the_caller() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        AesSealer(b"short")
