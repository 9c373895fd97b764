"""One daemon with short time-outs and one workspace root, shared by all probes, and its like with gVisor; two whose
sandboxes have a hostile runner, of which one has no laws; a rig for containers that are controls.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.daemon import Daemon, docker, serve
from tests.escape import lawless as without_laws
from tests.escape.attacker import Attacker
from tests.escape.gvisor import RUNTIMES
from tests.escape.weakened import MACHINES, Engine
from tests.integration.docker.private_engine import private_engine, runsc
from tests.integration.docker.rig import DOCKERFILE as WAITING
from tests.integration.docker.rig import IMAGE as WAITING_IMAGE
from tests.integration.docker.rig import Rig, shared_directory, waiting_image

PROJECT_UID = 1000
RUNNER = Path(__file__).with_name("hostile_runner.py")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "attack(*names): tries attacks of tests.escape.attacks; passes when they fail")
    config.addinivalue_line("markers", "control(*names): the same without a protection; passes when they succeed")


IMAGE = "perstack/base:latest"
BOUNDS = {"jobs.tool_timeout_ms": 4000, "jobs.skill_start_timeout_ms": 5000, "templates.skills.grant": ""}
# The runner of the image gives way to another program, under the same first process.
DOCKERFILE = f"""FROM {IMAGE}
COPY runner.py /opt/hostile.py
ENTRYPOINT ["/bin/sh", "-c", "exec </dev/null >/dev/null 2>/run/log/runner.stderr; exec /usr/bin/tini -- \\
/usr/bin/python3 -I -S -B /opt/hostile.py"]
"""


def images(image: str) -> dict[str, Any]:
    return {"templates.base.image": image, "templates.skills.image": image}


@contextmanager
def attacked(settings: Mapping[str, Any], main: Any = serve) -> Iterator[Attacker]:
    """A daemon with a host directory that its jobs may work in."""
    with tempfile.TemporaryDirectory(prefix="pe-", dir="/tmp") as directory:
        home = Path(directory)
        home.chmod(0o755)
        project = home / "root/project"
        project.mkdir(parents=True)
        os.chown(project, PROJECT_UID, PROJECT_UID)
        daemon = Daemon(home, {**BOUNDS, "workspace_roots": [str(home / "root")], **settings}, main=main)
        daemon.start()
        try:
            yield Attacker(daemon, project)
        finally:
            daemon.stop()


@pytest.fixture(scope="session")
def attacker() -> Iterator[Attacker]:
    settings = {"templates.base.min_idle": 3, "templates.skills.min_idle": 2, "templates.full.min_idle": 1}
    with attacked(settings) as found:
        yield found


# --- each runtime -----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="session")
def gvisor_engine() -> Iterator[Engine]:
    """An engine of the suite's own with gVisor, and the images of sandboxes and of controls."""
    with private_engine(runsc(), images=[IMAGE]) as url:
        command = ["docker", "-H", url, "build", "--quiet", "--tag", WAITING_IMAGE, "-"]
        text = WAITING.format(origin=IMAGE).encode()
        subprocess.run(command, input=text, check=True, capture_output=True, timeout=60)
        yield Engine(url, "runsc")


@pytest.fixture(scope="session")
def gvisor_attacker(gvisor_engine: Engine) -> Iterator[Attacker]:
    """A daemon whose sandboxes are gVisor's; skills have no package to install, so the small image does."""
    settings = {"engine.url": gvisor_engine.url, **images(IMAGE), "templates.full.min_idle": 0}
    for name, idle in (("base", 3), ("skills", 1)):
        settings |= {f"templates.{name}.runtime": "runsc", f"templates.{name}.min_idle": idle}
    with attacked(settings) as found:
        yield found


@pytest.fixture(scope="module", params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> str:
    """What runs the sandboxes of `each_attacker` and `each_engine`; `tests.escape.verdicts` reads it."""
    return str(request.param)


@pytest.fixture(scope="module")
def each_attacker(request: pytest.FixtureRequest, runtime: str) -> Attacker:
    """`attacker`, once with each runtime."""
    found: Attacker = request.getfixturevalue("attacker" if runtime == "runc" else "gvisor_attacker")
    return found


@pytest.fixture(scope="module")
def each_engine(request: pytest.FixtureRequest, runtime: str) -> Engine:
    """Where controls run, once with each runtime."""
    found: Engine = MACHINES if runtime == "runc" else request.getfixturevalue("gvisor_engine")
    return found


# --- hostile runners --------------------------------------------------------------------------------------------------
@pytest.fixture(scope="session")
def hostile_image() -> Iterator[str]:
    """The base image with another runner."""
    tag = f"perstack-escape-hostile:{os.getpid()}"
    with tempfile.TemporaryDirectory(prefix="pe-image-") as directory:
        (Path(directory) / "Dockerfile").write_text(DOCKERFILE)
        shutil.copy(RUNNER, Path(directory) / "runner.py")
        docker("build", "--quiet", "--tag", tag, directory)
    try:
        yield tag
    finally:
        docker("rmi", "--force", tag)


@pytest.fixture(scope="session")
def hostile(hostile_image: str) -> Iterator[Attacker]:
    """A daemon as every other, with sandboxes whose runner does as the name of its expert says."""
    with attacked({**images(hostile_image), "templates.base.min_idle": 3, "templates.skills.min_idle": 1}) as found:
        yield found


@pytest.fixture(scope="session")
def lawless(hostile_image: str) -> Iterator[Attacker]:
    """The same sandboxes, and a daemon that has none of the laws that hold a runner."""
    idle = {"templates.base.min_idle": 2, "templates.skills.min_idle": 1}
    settings = {**images(hostile_image), **idle, "egress.max_tunnels": 4096}
    with attacked(settings, without_laws.serve) as found:
        yield found


@pytest.fixture(scope="session")
def rig() -> Iterator[Rig]:
    """For containers from the sandboxes' own options, changed."""
    with waiting_image(), shared_directory(Path(f"/tmp/escape-{os.getpid()}")) as root:
        yield Rig(root)
