"""The seccomp profile as a file: what is written is what the rules say, and what must never be allowed is not."""

import json
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

SECCOMP = Path(__file__).resolve().parents[3] / "sandbox-images/seccomp"
PROFILE: dict[str, Any] = json.loads((SECCOMP / "profile.json").read_text())
ALLOWED: set[str] = {
    name for rule in PROFILE["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]
}

NEVER = """
acct add_key bpf chroot clock_settime clone3 delete_module fanotify_init finit_module fsconfig fsmount fsopen fspick
get_mempolicy init_module io_uring_enter io_uring_register io_uring_setup ioperm iopl ipc kcmp kexec_file_load
kexec_load keyctl lookup_dcookie mbind memfd_secret migrate_pages modify_ldt mount mount_setattr move_mount
move_pages nfsservctl open_by_handle_at open_tree openat2 perf_event_open pidfd_getfd pivot_root process_madvise
process_vm_readv process_vm_writev ptrace quotactl quotactl_fd reboot remap_file_pages request_key set_mempolicy
setdomainname sethostname setns settimeofday socketcall swapoff swapon sysfs syslog umount umount2 unshare uselib
userfaultfd ustat vhangup vmsplice fchmodat2
"""
STAYS = """
landlock_create_ruleset landlock_add_rule landlock_restrict_self pidfd_open memfd_create membarrier rseq pkey_alloc
pkey_free pkey_mprotect close_range statx
"""


def test_the_profile_is_what_its_generator_writes() -> None:
    done = subprocess.run([SECCOMP / "generate", "--check"], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr


def test_whatever_is_not_named_is_refused() -> None:
    assert (PROFILE["defaultAction"], PROFILE["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", 1)
    assert {rule["action"] for rule in PROFILE["syscalls"]} == {"SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"}


def test_only_the_machines_own_64_bit_abi_is_known() -> None:
    assert {one["architecture"]: one["subArchitectures"] for one in PROFILE["archMap"]} == {
        "SCMP_ARCH_X86_64": [],
        "SCMP_ARCH_AARCH64": [],
    }


@pytest.mark.parametrize("name", NEVER.split())
def test_what_must_never_be_allowed_is_not(name: str) -> None:
    assert name not in ALLOWED


@pytest.mark.parametrize("name", STAYS.split())
def test_what_programs_count_on_stays(name: str) -> None:
    assert name in ALLOWED


def test_no_call_is_allowed_both_with_and_without_conditions() -> None:
    free = {name for rule in PROFILE["syscalls"] if not rule["args"] for name in rule["names"]}
    bound = {name for rule in PROFILE["syscalls"] if rule["args"] for name in rule["names"]}
    assert not free & bound
    assert {"socket", "socketpair", "clone", "chmod", "openat", "prlimit64", "personality"} <= bound
    assert {"sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler"} <= bound
    assert {"setpriority", "ioprio_set", "mknod", "mknodat", "renameat2"} <= bound


def test_no_rule_compares_an_argument_twice() -> None:
    """runc 1.1 makes such a rule one for each comparison, of which any will do."""
    for rule in PROFILE["syscalls"]:
        indices = [argument["index"] for argument in rule["args"]]
        assert len(indices) == len(set(indices)), rule


@pytest.mark.parametrize(("name", "index"), [("mknod", 1), ("mknodat", 2)])
@pytest.mark.parametrize("bits", [0, 0o4000, 0o2000, 0o6000])
def test_nodes_of_every_kind_but_devices_may_be_made_without_setuid_and_setgid(
    name: str, index: int, bits: int
) -> None:
    rules = [rule["args"] for rule in PROFILE["syscalls"] if name in rule["names"]]
    assert {(len(arguments), arguments[0]["index"], arguments[0]["op"]) for arguments in rules} == {
        (1, index, "SCMP_CMP_MASKED_EQ")
    }
    kinds = {
        kind
        for kind in range(0, 0o200000, 0o010000)
        if any((kind | bits | 0o1777) & rule["value"] == rule["valueTwo"] for (rule,) in rules)
    }
    assert kinds == (set() if bits else {0, stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK})
