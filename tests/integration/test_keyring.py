"""The master key in a real Secret Service: gnome-keyring on a D-Bus of its own, without a screen.

`tools/secret-service` installs both programs; without them these tests fail.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from perstackd.adapters.secrets import master_key
from perstackd.adapters.secrets.keyring_program import USER_NAME
from perstackd.adapters.secrets.master_key import read_master_key
from perstackd.adapters.secrets.sealer import AesSealer
from perstackd.domain.errors import Kind, PerstackError

KEY = "MTExMTExMTExMTExMTExMTExMTExMTExMTExMTExMTE="  # 32 times the digit 1, in base64
SECONDS = 30
PID = "KEYRING_PID"
STORE = "import keyring, sys; keyring.set_password(sys.argv[1], sys.argv[2], sys.stdin.read())"


def ended(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(SECONDS)
    finally:
        process.kill()


@pytest.fixture
def session() -> Iterator[dict[str, str]]:
    """The environment of a session with a bus of its own and a home without anything."""
    with tempfile.TemporaryDirectory(prefix="pkr-", dir="/tmp") as home, ExitStack() as stack:
        for name in ("run", "data", "config", "cache"):
            (Path(home) / name).mkdir(mode=0o700)
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": home,
            "XDG_RUNTIME_DIR": f"{home}/run",
            "XDG_DATA_HOME": f"{home}/data",
            "XDG_CONFIG_HOME": f"{home}/config",
            "XDG_CACHE_HOME": f"{home}/cache",
            "DBUS_SESSION_BUS_ADDRESS": f"unix:path={home}/run/bus",
        }
        bus = subprocess.Popen(
            ["dbus-daemon", "--session", "--nofork", "--print-address=1", f"--address=unix:path={home}/run/bus"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        stack.callback(ended, bus)
        assert bus.stdout is not None
        stack.enter_context(bus.stdout)
        assert bus.stdout.readline().startswith(b"unix:path="), "the bus did not start"
        yield environment


@pytest.fixture
def keyring(session: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """An unlocked keyring on that bus, for programs that this process starts too."""
    daemon = subprocess.Popen(
        ["gnome-keyring-daemon", "--foreground", "--unlock", "--components=secrets"],
        env=session,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert daemon.stdin is not None
        with daemon.stdin:
            daemon.stdin.write(b"password")
        deadline = time.monotonic() + SECONDS
        while not owned(session, "org.freedesktop.secrets"):
            assert daemon.poll() is None, "the keyring ended"
            assert time.monotonic() < deadline, "the keyring did not come up"
            time.sleep(0.05)
        for name in ("DBUS_SESSION_BUS_ADDRESS", "XDG_RUNTIME_DIR", "XDG_DATA_HOME", "HOME"):
            monkeypatch.setenv(name, session[name])
        yield {**session, PID: str(daemon.pid)}
    finally:
        ended(daemon)


def owned(session: dict[str, str], name: str) -> bool:
    """Whether somebody on the bus has that name."""
    bus = "org.freedesktop.DBus"
    ask = ["dbus-send", "--session", "--print-reply", f"--dest={bus}", "/", f"{bus}.NameHasOwner", f"string:{name}"]
    said = subprocess.run(ask, env=session, check=True, timeout=SECONDS, capture_output=True, text=True).stdout
    return "boolean true" in said


def put(session: dict[str, str], service: str, text: str) -> None:
    """As a person does with the keyring program."""
    command = [sys.executable, "-c", STORE, service, USER_NAME]
    subprocess.run(command, input=text, env=session, check=True, timeout=SECONDS, text=True, capture_output=True)


def test_a_key_in_the_secret_service_is_read(keyring: dict[str, str]) -> None:
    put(keyring, "perstackd", KEY)
    assert read_master_key("keyring:perstackd").key_id == AesSealer(b"1" * 32).key_id


def test_a_keyring_without_the_entry_says_how_to_make_one(keyring: dict[str, str]) -> None:
    put(keyring, "perstackd", KEY)
    with pytest.raises(PerstackError) as caught:
        read_master_key("keyring:another")
    assert (caught.value.kind, caught.value.reason) == (Kind.PRECONDITION, "keyring_entry_missing")
    assert "keyring set another" in caught.value.message


def test_an_entry_that_is_no_key_is_not_shown(keyring: dict[str, str]) -> None:
    put(keyring, "perstackd", "a-password-of-something-else")
    with pytest.raises(PerstackError) as caught:
        read_master_key("keyring:perstackd")
    assert caught.value.reason == "key_file_invalid"
    assert "a-password" not in caught.value.message


def test_without_a_secret_service_the_cause_is_told(session: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in session.items():
        monkeypatch.setenv(name, text)
    with pytest.raises(PerstackError) as caught:
        read_master_key("keyring:perstackd")
    assert (caught.value.kind, caught.value.reason) == (Kind.UNAVAILABLE, "keyring_unavailable")


def test_a_keyring_that_does_not_answer_does_not_keep_the_daemon_waiting(
    keyring: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A locked one asks on a screen that is not there and waits; one that is frozen stands for it."""
    put(keyring, "perstackd", KEY)
    monkeypatch.setattr(master_key, "KEYRING_SECONDS", 5.0)
    os.kill(int(keyring[PID]), signal.SIGSTOP)
    try:
        with pytest.raises(PerstackError) as caught:
            read_master_key("keyring:perstackd")
    finally:
        os.kill(int(keyring[PID]), signal.SIGCONT)
    assert caught.value.reason == "keyring_unavailable"
    assert "5 s" in caught.value.message
    assert read_master_key("keyring:perstackd").key_id == AesSealer(b"1" * 32).key_id
