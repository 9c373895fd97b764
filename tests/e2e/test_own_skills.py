"""Skills with sandboxes of their own: what is kept apart is apart, by the word of programs that look for it inside."""

import json
import socket
import ssl
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from perstackd.adapters.package_indexes.reading import read_package_indexes
from tests.e2e.daemon import Daemon, docker, events_of, one, types, until
from tests.e2e.skill_servers import PROBE, call, connect, expert, python, results, stdio, table

pytestmark = pytest.mark.docker

SECRETS = {"KEEPER_TOKEN": "zzkeeper4711", "WRITER_TOKEN": "zzwriter4712"}
LOOK = """
import json, os, pathlib, re
kept = re.compile(b"z" * 2 + rb"(keeper|writer)47")
places = [path for root in ("/tmp", "/run", "/home", "/root", "/mnt", "/gw", "/dev/shm", "/etc", "/opt")
          for at, _, files in os.walk(root) for path in (os.path.join(at, name) for name in files)]
places += [str(path) for kind in ("environ", "cmdline") for path in pathlib.Path("/proc").glob(f"[0-9]*/{kind}")]
found, readable = set(), 0
for place in places:
    try:
        if os.path.isfile(place) and os.path.getsize(place) < 1 << 24:
            data = open(place, "rb").read()
            readable += 1
            found |= {match.decode() for match in kept.findall(data)}
    except OSError:
        pass
running = [path.read_bytes().replace(b"\\0", b" ").decode() for path in pathlib.Path("/proc").glob("[0-9]*/cmdline")]
try:
    seen = os.listdir("/mnt/workspace")
except OSError as error:
    seen = type(error).__name__
try:
    open("/mnt/workspace/made-by-ME", "w").close()
    wrote = True
except OSError as error:
    wrote = type(error).__name__
print(json.dumps({"found": sorted(found), "readable": readable, "seen": seen, "wrote": wrote,
                  "tools": sorted(set(re.findall("in_[a-z]+", " ".join(running))))}))
"""


def not_global(hosts: Mapping[str, int]) -> list[str]:
    """Their addresses that the proxy refuses unless the operator allows them."""
    found = {entry[4][0] for host, port in hosts.items() for entry in socket.getaddrinfo(host, port)}
    return sorted(str(address) for address in found if not ip_address(address).is_global)


def authorities() -> str:
    """Those that this machine's own programs believe."""
    paths = ssl.get_default_verify_paths()
    return str(paths.cafile or paths.openssl_cafile)


@pytest.fixture(scope="module")
def index() -> str:
    """A host that answers at port 443: that of this machine's package index, whatever it is."""
    rules = read_package_indexes().of_command("uvx").rules
    return next(rule.host for rule in rules if rule.port == 443)


@pytest.fixture(scope="module")
def daemon(home: Path) -> Iterator[Daemon]:
    indexes = read_package_indexes()
    hosts = {rule.host: rule.port for command in ("npx", "uvx") for rule in indexes.of_command(command).rules}
    settings = {
        "egress.allow_addresses": not_global(hosts),
        "egress.ca_bundle": authorities(),
        "templates.base.min_idle": 1,
        "templates.skills.min_idle": 3,
    }
    daemon = Daemon(home, settings)
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.stop()


# --- one expert with three skills, looked at from all four of its sandboxes -------------------------------------------
@pytest.fixture(scope="module")
def looked(daemon: Daemon, index: str) -> tuple[dict[str, dict[str, Any]], dict[str, str], list[dict[str, Any]]]:
    """What each place sees of the others; how the way out answers each; the job's events."""
    toml = expert("solo")
    own = {"isolation": "own"}
    toml += stdio("solo", "keeper", PROBE, "in_keeper", requiredEnv=["KEEPER_TOKEN"], allowedDomains=[index])
    toml += stdio("solo", "writer", PROBE, "in_writer", requiredEnv=["WRITER_TOKEN"], workspace="rw")
    toml += stdio("solo", "hermit", PROBE, "in_hermit", workspace="none", **own)
    skills = ("keeper", "writer", "hermit")
    there = connect(f"{index}:443")
    daemon.script(
        "solo",
        {"calls": [call("w", "writeTextFile", path="note.txt", text="from the expert")]},
        {
            "calls": [
                python("expert", LOOK.replace("ME", "expert")),
                *(call(name, f"in_{name}", code=LOOK.replace("ME", name)) for name in skills),
            ]
        },
        {"calls": [python("to-expert", there), *(call(f"to-{name}", f"in_{name}", code=there) for name in skills)]},
        {"text": "done"},
    )
    code, events, stderr = daemon.run(daemon.definition(toml), "solo", env=SECRETS)
    assert code == 0, stderr
    said = results(events)
    said["expert"] = json.loads(said["expert"])["output"]
    places = ("expert", *skills)
    return {name: json.loads(said[name]) for name in places}, {name: said[f"to-{name}"] for name in places}, events


Looked = tuple[dict[str, dict[str, Any]], dict[str, str], list[dict[str, Any]]]


def test_a_skills_secret_is_found_in_its_own_sandbox_alone(looked: Looked, daemon: Daemon) -> None:
    seen, _, events = looked
    assert {name: place["found"] for name, place in seen.items()} == {
        "expert": [],
        "keeper": ["keeper"],  # the control: the same program finds it where it is
        "writer": ["writer"],
        "hermit": [],
    }
    assert min(place["readable"] for place in seen.values()) > 10
    assert {(event["name"], event["skill"]) for event in events if event["type"] == "secretReleased"} == {
        ("KEEPER_TOKEN", "keeper"),
        ("WRITER_TOKEN", "writer"),
    }
    assert not [secret for secret in SECRETS.values() if secret in json.dumps(events) + daemon.log()]


def test_a_skills_process_is_seen_in_its_own_sandbox_alone(looked: Looked) -> None:
    seen, _, events = looked
    assert {name: place["tools"] for name, place in seen.items()} == {
        "expert": [],
        "keeper": ["in_keeper"],
        "writer": ["in_writer"],
        "hermit": ["in_hermit"],
    }
    assert len({event["containerId"] for event in events if event["type"] == "sandboxAssigned"}) == 4


def test_a_skills_host_is_open_to_its_own_sandbox_alone_and_a_denial_says_which_line_to_add(
    looked: Looked, index: str
) -> None:
    _, answers, events = looked
    assert "200 Connection established" in answers["keeper"]
    for name in ("expert", "writer", "hermit"):
        assert "403" in answers[name]
        assert f'allowedDomains = ["{index}"]'.replace('"', '\\"' if name == "expert" else '"') in answers[name]
    denied = [event for event in events if event["type"] == "egressDenied"]
    assert {(event["host"], event["reason"]) for event in denied} == {(index, "host_not_allowed")}
    assert len(denied) == 3


def test_a_skill_sees_the_workspace_as_its_definition_says(looked: Looked) -> None:
    seen, _, _ = looked
    assert "note.txt" in seen["expert"]["seen"]
    assert ("note.txt" in seen["keeper"]["seen"], seen["keeper"]["wrote"]) == (True, "OSError")
    assert ("note.txt" in seen["writer"]["seen"], seen["writer"]["wrote"]) == (True, True)
    assert "note.txt" not in seen["hermit"]["seen"]


# --- the end of one of them -------------------------------------------------------------------------------------------
def test_a_run_whose_skills_sandbox_is_killed_goes_on_with_the_skill_in_fresh_ones(daemon: Daemon) -> None:
    toml = expert("solo") + stdio("solo", "keeper", PROBE, "in_keeper", isolation="own")
    daemon.script(
        "solo",
        {"calls": [call("a", "in_keeper", code="import time; time.sleep(60)"), call("l", "listDirectory", path=".")]},
        {"calls": [call("b", "in_keeper", code="print('still here')")]},
        {"text": "done"},
    )
    process = daemon.begin(daemon.definition(toml), "solo")
    seen = until(process, "callTools")
    (container,) = [event["containerId"] for event in seen if event.get("role") == "skill:keeper"]
    docker("kill", "--signal", "KILL", container)
    rest, _ = process.communicate(timeout=60)
    events = seen + events_of(rest)
    assert process.returncode == 0
    assert "may or may not have taken effect" in json.dumps(one(events, "resumeToolCalls"))
    assert "still here" in results(events)["b"]
    assert sorted(event["fence"] for event in events if event["type"] == "sandboxAssigned") == [1, 1, 2, 2]
    released = {event["cause"] for event in events if event["type"] == "sandboxReleased"}
    assert "unknown" not in released


# --- packages ---------------------------------------------------------------------------------------------------------
PLANT = """
import os, pathlib
os.makedirs("node_modules/.bin", exist_ok=True)
for name in ("mcp-server-filesystem", "mcp-server-time", "python3", "node"):
    path = pathlib.Path("node_modules/.bin", name)
    path.write_text("#!/bin/sh\\necho planted >&2\\necho planted > planted-ran\\nexit 1\\n")
    path.chmod(0o755)
nowhere = "https://planted.invalid/"
pathlib.Path(".npmrc").write_text(f"registry={nowhere}\\n")
pathlib.Path("package.json").write_text('{"name":"@modelcontextprotocol/server-filesystem","version":"99.0.0",'
    '"bin":{"mcp-server-filesystem":"node_modules/.bin/mcp-server-filesystem"}}')
pathlib.Path("uv.toml").write_text(f'index-url = "{nowhere}"\\n')
pathlib.Path("pyproject.toml").write_text(
    '[project]\\nname = "mcp-server-time"\\nversion = "99"\\n'
    f'[[tool.uv.index]]\\nurl = "{nowhere}"\\ndefault = true\\n')
pathlib.Path("sitecustomize.py").write_text("raise SystemExit('planted')")
print(sorted(os.listdir(".")))
"""
NPX = {"command": "npx", "args": ["--no-install", "mcp-server-filesystem"], "stdout": True, "stderr": True}
PACKAGES = {"files": ("npx", "@modelcontextprotocol/server-filesystem"), "clock": ("uvx", "mcp-server-time")}


def test_package_runners_install_a_server_and_leave_aside_what_the_workspace_plants(daemon: Daemon) -> None:
    """The control runs `npx` in the workspace itself, where it does run what was planted."""
    planted = [{"calls": [python("p", PLANT)]}, {"calls": [{"id": "c", "name": "exec", "arguments": NPX}]}]
    daemon.script("planter", *planted, {"text": "planted"})
    toml = 'runtime = "skills"\n' + expert("planter")
    code, events, stderr = daemon.run(daemon.definition(toml), "planter", workspace="planted")
    assert code == 0, stderr
    assert ".npmrc" in results(events)["p"]
    assert "planted\\n" in results(events)["c"]

    toml = expert("solo")
    for name, (command, package) in PACKAGES.items():
        toml += table(f"experts.solo.skills.{name}", type="mcpStdioSkill", command=command, packageName=package)
    files = [call("d", "list_allowed_directories"), call("r", "read_text_file", path="/mnt/workspace/uv.toml")]
    daemon.script("solo", {"calls": [call("t", "get_current_time", timezone="UTC"), *files]}, {"text": "done"})
    code, events, stderr = daemon.run(daemon.definition(toml), "solo", workspace="planted")
    assert code == 0, stderr
    said = results(events)
    assert "datetime" in said["t"]
    assert "/mnt/workspace" in said["d"], said
    assert "index-url" in said["r"], said
    assert "planted" not in json.dumps([event for event in events if event["type"].startswith("skill")])
    assert "egressDenied" not in types(events)
