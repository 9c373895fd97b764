import os

import pytest

from benchmarks import processes
from benchmarks.processes import children, cpu_seconds, parent, pss_mib, rss_mib


def test_a_process_is_told_from_proc() -> None:
    pid = os.getpid()
    assert rss_mib(pid) > 1
    assert 0 < pss_mib(pid) <= rss_mib(pid) * 1.5
    assert parent(pid) == os.getppid()
    assert pid in children(os.getppid())
    assert cpu_seconds(pid) > 0


@pytest.mark.parametrize(
    ("cgroup", "directory", "version"),
    [
        ("5:cpu:/docker/a\n4:memory:/docker/a\n0::/\n", "/sys/fs/cgroup/memory/docker/a", 1),
        ("4:memory,cpu:/b\n0::/c\n", "/sys/fs/cgroup/memory/b", 1),
        ("0::/system.slice/docker-a.scope\n", "/sys/fs/cgroup/system.slice/docker-a.scope", 2),
    ],
)
def test_the_memory_cgroup_is_found_in_both_versions(cgroup: str, directory: str, version: int) -> None:
    found, found_version = processes._memory_directory(cgroup)
    assert (str(found), found_version) == (directory, version)
