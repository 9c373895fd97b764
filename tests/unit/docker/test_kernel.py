"""Reading /proc and the cgroup file systems, on recorded files; see fixtures/README.md for which are real."""

import os
from pathlib import Path

import pytest

from perstackd.adapters.docker import kernel

FIXTURES = Path(__file__).parent / "fixtures"
CONTAINER = "/docker/"


def recorded(version: str, name: str) -> str:
    return (FIXTURES / version / name).read_text()


def test_a_process_status_gives_ids_capabilities_and_filter() -> None:
    process = kernel.parse_status(7, recorded("v1", "status"))
    assert (process.pid, process.name) == (7, "tini")
    assert process.uids == process.gids == (200_001,) * 4
    assert process.groups == (200_001,)
    assert process.capabilities == dict.fromkeys(kernel.CAPABILITY_SETS, 0)
    assert process.no_new_privileges
    assert process.seccomp == 2


@pytest.mark.parametrize("missing", ["CapBnd", "NoNewPrivs", "Seccomp", "Uid", "Groups"])
def test_a_status_without_a_line_is_an_error_and_no_default(missing: str) -> None:
    lines = [line for line in recorded("v1", "status").splitlines() if not line.startswith(f"{missing}:")]
    with pytest.raises(KeyError):
        kernel.parse_status(7, "\n".join(lines))


def test_mounts_are_read_with_flags_propagation_and_sizes() -> None:
    mounts = {mount.target: mount for mount in kernel.parse_mountinfo(recorded("v1", "mountinfo"))}
    assert "ro" in mounts["/"].options
    assert mounts["/mnt"].propagation == ("master:2",) or mounts["/mnt"].propagation[0].startswith("master:")
    assert mounts["/run/log"].kind == "tmpfs"
    assert {"size=64k", "nr_inodes=8"} <= mounts["/run/log"].super_options


def test_escaped_paths_of_mounts_are_read_as_they_are() -> None:
    line = r"1 2 0:3 /a\040b /c\134d rw shared:7 master:8 - ext4 /dev/x\011y rw,x=1"
    (mount,) = kernel.parse_mountinfo(line)
    assert (mount.root, mount.target, mount.source) == ("/a b", "/c\\d", "/dev/x\ty")
    assert mount.propagation == ("shared:7", "master:8")


def test_limits_are_read_by_name() -> None:
    limits = kernel.parse_limits(recorded("v1", "limits"))
    assert limits["Max open files"] == ("1024", "1024")
    assert limits["Max core file size"] == ("0", "0")
    assert limits["Max cpu time"] == ("unlimited", "unlimited")
    assert limits["Max nice priority"] == ("0", "0")


def test_interfaces_are_read_by_name() -> None:
    assert kernel.parse_interfaces(recorded("v1", "net_dev")) == ("lo",)
    more = recorded("v1", "net_dev") + "  eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n"
    assert kernel.parse_interfaces(more) == ("lo", "eth0")


def test_controllers_of_version_1_are_found_in_their_hierarchies() -> None:
    paths = kernel.parse_cgroup(recorded("v1", "cgroup"))
    found = kernel.cgroup_directories(paths, kernel.parse_mountinfo(recorded("v1", "host_mountinfo")))
    assert found["memory"].startswith("/sys/fs/cgroup/memory/docker/")
    assert found["pids"].startswith("/sys/fs/cgroup/pids/docker/")
    assert found["cpu"].startswith("/sys/fs/cgroup/cpu/docker/")


def test_controllers_of_version_2_are_found_in_the_one_hierarchy() -> None:
    paths = kernel.parse_cgroup(recorded("v2", "cgroup"))
    found = kernel.cgroup_directories(paths, kernel.parse_mountinfo(recorded("v2", "host_mountinfo")))
    assert list(found) == [""]
    assert found[""].startswith("/sys/fs/cgroup/system.slice/docker-")


def test_a_cgroup_mount_of_a_subtree_is_taken_off_the_path() -> None:
    mounts = kernel.parse_mountinfo("1 2 0:3 /docker /cg rw - cgroup cgroup rw,memory")
    assert kernel.cgroup_directories({"memory": "/docker/abc"}, mounts) == {"memory": "/cg/abc"}


def write(directory: Path, files: dict[str, str]) -> str:
    directory.mkdir()
    for name, text in files.items():
        (directory / name).write_text(f"{text}\n")
    return str(directory)


def test_limits_of_version_1_are_read_from_their_files(tmp_path: Path) -> None:
    directories = {
        "memory": write(
            tmp_path / "memory",
            {"memory.limit_in_bytes": "402653184", "memory.memsw.limit_in_bytes": "402653184"},
        ),
        "pids": write(tmp_path / "pids", {"pids.max": "256"}),
        "cpu": write(
            tmp_path / "cpu", {"cpu.cfs_quota_us": "150000", "cpu.cfs_period_us": "100000", "cpu.shares": "256"}
        ),
        "": str(tmp_path / "empty"),
    }
    limits = kernel.read_cgroup(directories)
    assert limits == kernel.CgroupLimits(1, directories["memory"], 402653184, 402653184, 256, 1.5, 256)


def test_limits_of_version_2_are_read_from_their_files(tmp_path: Path) -> None:
    files = {
        "memory.max": "402653184",
        "memory.swap.max": "0",
        "pids.max": "256",
        "cpu.max": "150000 100000",
        "cpu.weight": "10",
    }
    limits = kernel.read_cgroup({"": write(tmp_path / "scope", files)})
    assert limits == kernel.CgroupLimits(2, str(tmp_path / "scope"), 402653184, 402653184, 256, 1.5, 10)


def test_no_limit_is_none_in_both_versions(tmp_path: Path) -> None:
    one = {
        "memory.limit_in_bytes": "9223372036854771712",
        "memory.memsw.limit_in_bytes": "9223372036854771712",
        "pids.max": "max",
        "cpu.cfs_quota_us": "-1",
        "cpu.cfs_period_us": "100000",
    }
    directory = write(tmp_path / "one", one)
    unlimited = kernel.read_cgroup(dict.fromkeys(("memory", "pids", "cpu"), directory))
    assert (unlimited.memory, unlimited.memory_and_swap, unlimited.pids, unlimited.cpus) == (None,) * 4
    two = {"memory.max": "max", "memory.swap.max": "max", "pids.max": "max", "cpu.max": "max 100000"}
    unlimited = kernel.read_cgroup({"": write(tmp_path / "two", two)})
    assert (unlimited.memory, unlimited.memory_and_swap, unlimited.pids, unlimited.cpus) == (None,) * 4


def test_files_that_are_not_there_are_no_limit(tmp_path: Path) -> None:
    limits = kernel.read_cgroup({"": str(tmp_path)})
    assert (limits.memory, limits.memory_and_swap, limits.pids, limits.cpus, limits.share) == (None,) * 5


def test_this_process_can_be_observed() -> None:
    view = kernel.observe(os.getpid(), ("/proc/sys", "/proc/never-there"))
    assert os.getpid() in {process.pid for process in view.processes}
    assert view.namespaces == view.host_namespaces
    assert view.host_paths == {"/proc/sys"}
    assert "null" in view.devices
    assert "lo" in view.interfaces


def test_a_process_that_ended_cannot_be_observed() -> None:
    with pytest.raises(OSError, match="No such"):
        kernel.observe(2**22 + 1, ())
