"""What the process does to itself, tried in processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

from perstack_runner import hardening, landlock
from perstack_runner.children import Process, descendants
from perstack_runner.environment import child_environment

ROOT = Path(__file__).parents[3]
PATHS = [str(ROOT / "proto"), str(ROOT / "sandbox-images/runner")]


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(PATHS)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


def test_a_protected_process_is_not_dumpable_and_adopts_orphans() -> None:
    code = "from perstack_runner import hardening as h; p = h.protect(); print(p.dumpable, p.subreaper)"
    assert run(code).split() == ["False", "True"]


def test_the_kernel_version_of_landlock_is_reported() -> None:
    assert landlock.abi() >= 0
    assert landlock.abi() == int(run("from perstack_runner import landlock; print(landlock.abi())"))


def test_what_the_process_sees_names_capabilities_mounts_and_interfaces() -> None:
    view = hardening.self_view()
    assert len(view) <= 128
    keys = {line.partition(" ")[0] for line in view}
    assert {"pid", "status.CapEff", "status.NoNewPrivs", "status.Seccomp", "mount./"} <= keys
    # by itself: a host has so many mounts that the bound leaves its interfaces out, a sandbox has not
    assert "interface.lo up" in hardening._interfaces(Path("/proc/self/net/dev").read_text())


def test_a_warm_runner_imports_neither_the_mcp_sdk_nor_openssl() -> None:
    code = (
        "import sys; sys.modules['ssl'] = None\n"
        "import perstack_runner.loop, perstack_runner.workplace, json\n"
        "del sys.modules['ssl']\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    modules = set(json.loads(run(code)))
    assert not modules & {"mcp", "mcp_types", "anyio", "pydantic", "_ssl", "_hashlib", "grpc", "perstackd"}
    assert "google.protobuf" in modules


def test_the_old_domain_of_landlock_lets_files_move(tmp_path: Path) -> None:
    """ABI 2 to 5 have no scopes; their domain must not forbid what git and mv do."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "f").touch()
    code = (
        "import os, threading\n"
        "from perstack_runner import landlock\n"
        "def work():\n"
        "    assert landlock.restrict_thread(min(landlock.abi(), 5)) == (landlock.abi() >= 2)\n"
        f"    os.rename({str(tmp_path / 'a' / 'f')!r}, {str(tmp_path / 'b' / 'f')!r})\n"
        "    print('moved')\n"
        "t = threading.Thread(target=work); t.start(); t.join()\n"
    )
    assert run(code) == "moved\n"


def test_below_abi_2_there_is_no_domain() -> None:
    assert landlock.restrict_thread(1) is False


def test_descendants_are_found_through_every_level() -> None:
    table = {
        1: Process(0, 1, zombie=False),
        2: Process(1, 1, zombie=False),
        3: Process(2, 3, zombie=False),
        4: Process(3, 4, zombie=True),
        9: Process(1, 9, zombie=False),
    }
    assert descendants(table, {2, 77}) == {2, 3, 4}


def test_a_child_gets_few_names() -> None:
    own = {"PATH": "/bin", "HOME": "/h", "SECRET": "x", "SSL_CERT_FILE": "/ca"}
    environment = child_environment(own, 3128, (("KEY", "v"), ("PATH", "/mine")), "/private")
    assert environment["HTTPS_PROXY"] == environment["http_proxy"] == "http://127.0.0.1:3128"
    assert environment["no_proxy"] == "127.0.0.1,localhost,::1"
    assert (environment["PATH"], environment["HOME"], environment["KEY"]) == ("/mine", "/private", "v")
    assert environment["SSL_CERT_FILE"] == "/ca"
    assert "SECRET" not in environment
