"""What of the attacks is tried in gVisor's sandboxes as well as in runc's: everything whose outcome a sandbox's kernel
decides. Above: `tests.escape.page`, which tells it, and the tests, which take their cases from here.
"""

from tests.escape.attacks import ATTACKS

RUNTIMES = ("runc", "runsc")

LACKING = {
    "new_mount_api": "gVisor has no fsopen",
    "file_handles": "gVisor has no file handles",
    "file_capability": "gVisor has no file capabilities",
    "clock": "gVisor has no settimeofday",
    "network_settings": "gVisor's loopback takes no flags",
    "reboot": "gVisor has no reboot",
    "swap": "gVisor has no swap",
    "bpf": "gVisor has no bpf",
    "performance_events": "gVisor has no performance events",
    "page_faults": "gVisor has no userfaultfd",
    "io_uring": "gVisor has no io_uring as the engine starts it",
    "keyring": "gVisor has no keys, only the session's keyring (ESC-054)",
    "host_device": "gVisor has no device of the host: a node leads to those that it makes itself",
    "release_agent": "gVisor's cgroups are its own and have no release_agent",
    "sys_write": "gVisor's /sys is its own and has no such setting",
    "core_pattern": "gVisor's /proc/sys is its own and has no such setting",
    "host_settings": "gVisor's /proc/sys is its own and has no such setting",
    "accounting": "gVisor has no accounting",
    "hang_up": "gVisor has no vhangup",
    "whiteout_by_renaming": "gVisor's renameat2 leaves no whiteouts",
    "hard_link": "gVisor's mounts are file systems of their own: no link leads from one to another",
    "other_abi": "gVisor takes no 32-bit calls",
    "raw_socket": "gVisor makes no raw sockets as the engine starts it",
    "packet_socket": "gVisor makes no packet sockets as the engine starts it",
    "vsock": "gVisor has no sockets to the hypervisor",
    "interfaces": "the network is gVisor's own, with loopback alone",
    "host_loopback": "the network is gVisor's own, with loopback alone",
    "abstract_socket": "abstract names are gVisor's own",
}
"""By attack: refused there even with every protection undone, which a test holds against it."""
WITHIN = {
    "priority": "gVisor writes niceness down and schedules nothing by it",
    "runner_environ": "there is no Landlock; the runner's environment holds nothing",
    "runner_descriptors": "there is no Landlock; the names of its descriptors can be read, and its sockets not be opened",
    "runner_signal": "there is no Landlock; whoever ends the runner ends its own sandbox",
}
"""By attack: what gVisor permits and where that ends; tests hold the latter against it."""
OTHERWISE = {
    "other_processes": "each sandbox has a kernel of its own: there is no process namespace to share",
    "sibling_environ": "there is no Landlock: what must be kept apart has a sandbox of its own (ESC-042 to 046)",
    "sibling_signal": "there is no Landlock: what must be kept apart has a sandbox of its own (ESC-042 to 046)",
    "sibling_abstract_socket": "there is no Landlock: what must be kept apart has a sandbox of its own (ESC-042 to 046)",
    "inode_bomb": "gVisor counts no inodes: the sandbox's memory bounds them",
    "inotify_bomb": "inotify is gVisor's own, of one sandbox",
    "zombies": "zombies are gVisor's own and take no task of the host",
    "pipe_bomb": "pipes are gVisor's own, of one sandbox",
}
NOT_APPLICABLE = {**LACKING, **WITHIN, **OTHERWISE}
OUTSIDE = frozenset(
    {
        # the daemon decides
        "runner_socket", "runner_place_after_restart", "runner_place_in_a_run", "planted_link", "output_bomb",
        "huge_frames", "message_flood", "slow_reads", "malformed_messages", "malformed_requests", "forged_results",
        "forged_steps", "forged_delegates", "forged_questions", "forged_tool_lists", "forged_completion",
        "forged_blobs", "replayed_answer", "replayed_results", "planted_node_modules", "planted_python",
        "secret_in_labels", "secret_in_events", "secret_in_log", "secret_in_errors", "secret_at_rest",
        "secret_in_exports", "secret_in_backups", "guessed_jobs", "replayed_cursors", "other_artefacts",
        "other_history", "other_checkpoints", "other_tenants", "other_secrets", "workspace_names", "all_bombs",
        # the proxy decides
        "connect_flood", "rebinding", "other_server_name",
    }
)  # fmt: skip
"""Attacks that the host's side answers: it does not know what runs the sandbox that they come from."""
TRIED = frozenset(attack.name for attack in ATTACKS) - NOT_APPLICABLE.keys() - OUTSIDE


def told(name: str) -> str:
    """Why an attack was not tried there, or not with a verdict; empty for those that were."""
    if name in OUTSIDE:
        return "as runc"
    return f"not applicable: {NOT_APPLICABLE[name]}" if name in NOT_APPLICABLE else ""
