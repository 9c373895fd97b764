"""The unit file keeps its promises: above all, nothing in it gives the daemon a mount namespace of its own."""

from collections import defaultdict
from pathlib import Path

import pytest

SYSTEMD = Path(__file__).parents[2] / "systemd"

# Every option of systemd.exec(5) that makes a mount namespace for the service, alone or by what it implies.
MOUNT_NAMESPACE = frozenset({
    "BindPaths",
    "BindReadOnlyPaths",
    "DynamicUser",
    "ExecPaths",
    "ExtensionDirectories",
    "ExtensionImages",
    "InaccessiblePaths",
    "IPCNamespacePath",
    "LogNamespace",
    "MountAPIVFS",
    "MountFlags",
    "MountImages",
    "NetworkNamespacePath",
    "NoExecPaths",
    "PrivateBPF",
    "PrivateDevices",
    "PrivateIPC",
    "PrivateMounts",
    "PrivateNetwork",
    "PrivatePIDs",
    "PrivateTmp",
    "PrivateUsers",
    "ProcSubset",
    "ProtectControlGroups",
    "ProtectHome",
    "ProtectHostname",
    "ProtectKernelLogs",
    "ProtectKernelModules",
    "ProtectKernelTunables",
    "ProtectProc",
    "ProtectSystem",
    "ReadOnlyPaths",
    "ReadWritePaths",
    "RootDirectory",
    "RootDirectoryStartOnly",
    "RootEphemeral",
    "RootHash",
    "RootImage",
    "RootMStack",
    "TemporaryFileSystem",
})  # fmt: skip
# Older names that systemd still takes.
OLD_NAMES = frozenset({"ReadOnlyDirectories", "ReadWriteDirectories", "InaccessibleDirectories"})

Unit = dict[str, dict[str, list[str]]]


def parse(text: str) -> Unit:
    """Sections, options and values as systemd.syntax(7) has them: a lone backslash at the end continues a line."""
    unit: Unit = defaultdict(lambda: defaultdict(list))
    section = ""
    for line in text.replace("\\\n", " ").splitlines():
        stripped = line.strip()
        if not stripped or stripped[0] in "#;":
            continue
        if stripped.startswith("["):
            section = stripped.removeprefix("[").removesuffix("]")
            continue
        name, separator, value = stripped.partition("=")
        assert separator, f"{stripped!r} is neither a section nor an option"
        assert section, f"{stripped!r} stands before the first section"
        unit[section][name.strip()].append(value.strip())
    return unit


def offending(text: str) -> set[str]:
    return {name for section in parse(text).values() for name in section} & (MOUNT_NAMESPACE | OLD_NAMES)


@pytest.fixture
def text() -> str:
    return (SYSTEMD / "perstackd.service").read_text()


def test_no_option_of_the_unit_makes_a_mount_namespace(text: str) -> None:
    assert offending(text) == set()


def test_no_drop_in_makes_one_either() -> None:
    found = {path.name: offending(path.read_text()) for path in SYSTEMD.rglob("*.conf")}
    assert all(not names for names in found.values()), found


@pytest.mark.parametrize(
    "line", ["PrivateTmp=yes", "  ProtectSystem = strict", "ReadWriteDirectories=/x", "RootImage=/x"]
)
def test_a_weakened_unit_is_noticed(text: str, line: str) -> None:
    assert offending(text.replace("[Service]\n", f"[Service]\n{line}\n")) == {line.partition("=")[0].strip()}


def test_the_unit_says_why(text: str) -> None:
    comments = " ".join(line.strip("# ") for line in text.splitlines() if line.startswith("#"))
    assert "mount propagation" in comments
    assert "empty directory" in comments


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("Type", "notify"),
        ("KillMode", "mixed"),
        ("ExecStart", "/usr/local/bin/perstackd serve"),
        ("Restart", "on-failure"),
        ("LimitNOFILE", "1048576"),
        ("LimitCORE", "0"),
        ("RuntimeDirectory", "perstackd"),
        ("RuntimeDirectoryMode", "0750"),
        ("RuntimeDirectoryPreserve", "yes"),
        ("StateDirectory", "perstackd"),
        ("StateDirectoryMode", "0700"),
    ],
)
def test_the_service_has_what_the_daemon_counts_on(text: str, option: str, value: str) -> None:
    assert parse(text)["Service"][option] == [value]


def test_the_daemon_starts_after_the_engine_and_is_not_stopped_with_it(text: str) -> None:
    unit = parse(text)["Unit"]
    assert "docker.service" in unit["After"][0].split()
    assert not {"Requires", "BindsTo", "PartOf", "Requisite"} & set(unit)


def test_no_group_is_set_because_systemd_would_hand_it_the_workspaces(text: str) -> None:
    assert not {"Group", "User"} & set(parse(text)["Service"])


def test_every_option_is_set_once(text: str) -> None:
    repeated = {name for section in parse(text).values() for name, values in section.items() if len(values) > 1}
    assert repeated == set()


def lines(name: str) -> list[list[str]]:
    content = (SYSTEMD / name).read_text().splitlines()
    return [line.split() for line in content if line.strip() and not line.startswith("#")]


def test_the_group_of_the_runtime_directory_is_the_one_that_is_made(text: str) -> None:
    service = parse(text)["Service"]
    assert lines("perstackd.sysusers") == [["g", "perstack", "-"]]
    assert lines("perstackd.tmpfiles") == [
        ["d", "/run/perstackd", service["RuntimeDirectoryMode"][0], "root", "perstack", "-"],
        ["d", "/var/lib/perstackd", service["StateDirectoryMode"][0], "root", "root", "-"],
    ]
