"""What the doctor makes of what it sees: engines, accounts and kernels that are not as they should be."""

import json
import pwd
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from perstackd.adapters.docker import examination as engine
from perstackd.adapters.doctor import examination, host, kernel
from perstackd.adapters.doctor.report import Report
from perstackd.adapters.doctor.subject import Subject
from perstackd.domain.checkup import Finding, Level, error, exit_code, good, warning
from perstackd.domain.sandbox import Template

SUBJECT = Subject(
    state=Path("/var/lib/p"),
    runtime=Path("/run/p"),
    socket=Path("/run/p/s"),
    uids={"workspaces.uid": 199_998, "workspaces.spare_uid": 199_999, "egress.uid": 65_534},
    templates=(Template("base", "perstack/base:latest"),),
)
ENGINE: dict[str, Any] = {
    "ServerVersion": "28.1.0",
    "SecurityOptions": ["name=seccomp,profile=builtin", "name=cgroupns"],
    "CgroupDriver": "systemd",
    "CgroupVersion": "2",
    "Driver": "overlay2",
    "DockerRootDir": "/var/lib/docker",
    "LiveRestoreEnabled": True,
    "Runtimes": {"runc": {}},
    **dict.fromkeys(("MemoryLimit", "SwapLimit", "PidsLimit", "CpuCfsQuota", "CPUShares"), True),
}


def bad(findings: list[Finding]) -> dict[str, Level]:
    for finding in findings:
        assert bool(finding.remedy) == (finding.level is not Level.OK), finding
    return {finding.check: finding.level for finding in findings if finding.level is not Level.OK}


def test_what_a_template_leaves_out_is_a_warning_also_while_the_engine_is_away() -> None:
    loosened = Template("build", "perstack/full:latest", exceptions=("writable-root",))
    subject = replace(SUBJECT, templates=(*SUBJECT.templates, loosened), engine_url="unix:///nonexistent/e.sock")
    findings = list(engine.examine(subject))
    assert [(each.area, each.check, each.level) for each in findings] == [
        ("template build", "exception writable-root", Level.WARNING),
        ("engine", "reachable", Level.ERROR),
    ]
    assert "templates.build.exceptions" in findings[0].remedy


def test_an_engine_that_is_as_it_should_be_has_nothing_to_repair() -> None:
    assert bad([*engine._settings(ENGINE), *engine._runtimes(ENGINE, SUBJECT.templates)]) == {}


@pytest.mark.parametrize(
    ("change", "check", "level"),
    [
        ({"ServerVersion": "19.03.1"}, "version", Level.ERROR),
        ({"ServerVersion": ""}, "version", Level.ERROR),
        ({"SecurityOptions": ["name=seccomp", "name=userns"]}, "userns", Level.ERROR),
        ({"SecurityOptions": ["name=seccomp", "name=rootless"]}, "rootless", Level.ERROR),
        ({"SecurityOptions": []}, "seccomp", Level.ERROR),
        ({"SwapLimit": False}, "limits", Level.ERROR),
        ({"Driver": "vfs"}, "storage", Level.WARNING),
        ({"LiveRestoreEnabled": False}, "live-restore", Level.WARNING),
    ],
)
def test_each_setting_of_an_engine_that_does_not_do_is_found(change: dict[str, Any], check: str, level: Level) -> None:
    assert bad(list(engine._settings({**ENGINE, **change}))) == {check: level}


def test_a_runtime_that_the_engine_does_not_know_is_found() -> None:
    templates = (Template("hard", "i", runtime="runsc"), Template("base", "i"))
    assert bad(list(engine._runtimes(ENGINE, templates))) == {"runtime runsc": Level.ERROR}


def test_an_engine_that_does_not_answer_is_the_only_finding(tmp_path: Path) -> None:
    subject = replace(SUBJECT, engine_url=f"unix://{tmp_path}/none.sock", engine_seconds=1)
    (found,) = engine.examine(subject)
    assert (found.check, found.level) == ("reachable", Level.ERROR)
    assert "none.sock" in found.found


def test_who_may_not_open_the_engines_socket_is_told_to_be_root(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Subject) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(engine, "_client", refuse)
    (found,) = engine.examine(SUBJECT)
    assert (found.check, found.remedy) == ("reachable", "run the doctor as root")


def test_a_lock_that_may_not_be_looked_at_says_nothing_of_the_daemon(tmp_path: Path) -> None:
    assert examination._daemon(tmp_path / "lock").found == "has not run here yet"
    (tmp_path / "file").touch()
    found = examination._daemon(tmp_path / "file" / "lock")
    assert (found.level, found.remedy) == (Level.WARNING, "run the doctor as root")


def account(name: str, uid: int) -> pwd.struct_passwd:
    return pwd.struct_passwd((name, "x", uid, uid, "", "/", "/bin/sh"))


def test_accounts_among_the_uids_of_sandboxes_and_workspaces_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        pwd, "getpwall", lambda: [account("alice", 200_005), account("bob", 199_998), account("nobody", 65_534)]
    )
    found = [finding for finding in host._uids(SUBJECT) if finding.check != "/etc/subuid"]
    assert bad(found) == {"sandbox_uids": Level.ERROR, "workspaces.uid": Level.ERROR}
    assert "alice (200005)" in found[0].found
    monkeypatch.setattr(pwd, "getpwall", lambda: [account("alice", 1000), account("nobody", 65_534)])
    assert bad([finding for finding in host._uids(SUBJECT) if finding.check != "/etc/subuid"]) == {}


def test_a_socket_path_that_is_too_long_is_found() -> None:
    assert bad(list(host._sockets(replace(SUBJECT, runtime=Path("/run/" + "x" * 70))))) == {"socket paths": Level.ERROR}
    assert bad(list(host._sockets(SUBJECT))) == {}


def test_more_memory_promised_than_there_is_is_a_warning_and_none_for_the_idle_an_error() -> None:
    assert bad([host._memory(replace(SUBJECT, templates=(Template("b", "i", max=1),)))]) == {}
    assert bad([host._memory(replace(SUBJECT, templates=(Template("b", "i", max=1000, memory=1 << 40),)))]) == {
        "memory": Level.WARNING
    }
    assert bad([host._memory(replace(SUBJECT, templates=(Template("b", "i", min_idle=100_000),)))]) == {
        "memory": Level.ERROR
    }


def test_the_models_key_is_looked_for_by_name_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = replace(SUBJECT, provider="anthropic", keys={"anthropic": "SOME_KEY"})
    monkeypatch.delenv("SOME_KEY", raising=False)
    assert bad([host._key(subject)]) == {"anthropic": Level.WARNING}
    monkeypatch.setenv("SOME_KEY", "not-a-secret")
    found = host._key(subject)
    assert bad([found]) == {}
    assert "not-a-secret" not in str(found)
    assert bad([host._key(replace(subject, provider="replay"))]) == {}


@pytest.mark.parametrize(
    ("release", "level"),
    [("6.18.1", None), ("5.15.0-91-generic", Level.WARNING), ("5.10.0", Level.ERROR), ("odd", Level.ERROR)],
)
def test_kernels_are_judged_by_their_version(release: str, level: Level | None) -> None:
    assert bad([kernel._version(release)]) == ({"version": level} if level else {})


def test_without_landlock_there_is_a_warning() -> None:
    assert bad([kernel._landlock(0)]) == {"landlock": Level.WARNING}
    assert bad([kernel._landlock(4)]) == {}


def test_a_part_that_breaks_is_a_finding_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Subject) -> list[Finding]:
        raise ValueError("what nobody foresaw")

    monkeypatch.setattr(examination, "_PARTS", (("first", broken), ("second", lambda _: [good("second", "x", "y")])))
    _daemon, first, second = examination.examine(SUBJECT)
    assert (first.area, first.level, "what nobody foresaw" in first.found) == ("first", Level.ERROR, True)
    assert second.area == "second"


def test_the_report_for_people_has_each_finding_with_its_remedy_and_a_verdict() -> None:
    said: list[str] = []
    report = Report(as_json=False, say=said.append)
    for finding in (
        good("a", "x", "fine"),
        warning("a", "y", "so \x1b[31mso", "do this"),
        error("b", "z", "bad", "do that"),
    ):
        report.add(finding)
    assert report.end() == 1
    text = "\n".join(said)
    assert "ok       x: fine" in text
    assert "→ do this" in text
    assert "ERROR    z: bad" in text
    assert "3 looked at, 1 to be repaired, 1 to know about" in text
    assert "\x1b" not in text


def test_the_report_for_programs_is_one_document() -> None:
    said: list[str] = []
    report = Report(as_json=True, say=said.append)
    report.add(warning("a", "y", "so so", "do this"))
    assert report.end() == 0
    assert json.loads("".join(said)) == [
        {"area": "a", "check": "y", "level": "warning", "found": "so so", "remedy": "do this"}
    ]


def test_warnings_alone_do_not_fail() -> None:
    assert exit_code([good("a", "b", "c"), warning("a", "b", "c", "d")]) == 0
    assert exit_code([error("a", "b", "c", "d")]) == 1
