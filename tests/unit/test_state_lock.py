"""One daemon per state directory."""

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from perstackd.adapters.state_lock import state_lock
from perstackd.domain.errors import PerstackError


def test_a_second_daemon_is_refused_and_told_who_has_the_directory(tmp_path: Path) -> None:
    held = state_lock(tmp_path / "state")
    with held, pytest.raises(PerstackError, match=str(os.getpid())) as caught, state_lock(tmp_path / "state"):
        pass
    assert caught.value.reason == "state_locked"
    with state_lock(tmp_path / "state"):
        assert (tmp_path / "state").stat().st_mode & 0o7777 == 0o700
        assert (tmp_path / "state" / "lock").stat().st_mode & 0o7777 == 0o600


@pytest.mark.parametrize(("call", "number"), [("flock", errno.ENOLCK), ("ftruncate", errno.ENOSPC)])
def test_a_file_system_that_cannot_do_it_is_told_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    def fails(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl if call == "flock" else os, call, fails)
    with pytest.raises(PerstackError) as caught, state_lock(tmp_path / "state"):
        pass
    assert caught.value.reason == "state_unusable"
    assert str(tmp_path) in caught.value.message
