"""The attacks that the suite tries: docs/design/sandbox.md lists the kinds, this file numbers what is tried of each.

An id is given once and never used again: append new ones, whatever their kind. `tests.escape.verdicts` ties tests to
them, `make attacks` writes docs/security/attacks.md; `tests.escape.gvisor` says what is tried in gVisor as well.
"""

from dataclasses import dataclass

WEAKENED = "a container of the sandboxes' options with every protection undone"
NO_BOUNDS = "a container of the same options without bounds"
NO_LAW = "a daemon that takes every message of a runner"
OWN = "the same program says it of its own call"


@dataclass(frozen=True, slots=True)
class Attack:
    """`item` is the kind, in the design's words; `control` says where it succeeds."""

    id: str
    name: str
    item: str
    tried: str
    control: str


def _of(item: str, *rows: tuple[int, str, str, str]) -> tuple[Attack, ...]:
    return tuple(Attack(f"ESC-{number:03}", name, item, tried, control) for number, name, tried, control in rows)


ATTACKS = (
    *_of("engine socket", (1, "engine_socket", "dial Docker's and containerd's sockets", WEAKENED)),
    *_of(
        "host mounts",
        (2, "host_files", "read files of the host below a mount, and by the root of process 1", WEAKENED),
        (3, "image_write", "write into the image", WEAKENED),
        (4, "identity_write", "write the passwd that is mounted", WEAKENED),
        (5, "slot_write", "write beside the workspace, into its slot", WEAKENED),
    ),
    *_of(
        "privileged",
        (6, "root_uid", "be uid 0", WEAKENED),
        (7, "become_root", "setresuid to 0", WEAKENED),
        (8, "capabilities", "hold any capability", WEAKENED),
        (9, "host_device", "open the host's kernel log by a device node of its own", WEAKENED),
    ),
    *_of(
        "each dangerous capability",
        (10, "mount", "CAP_SYS_ADMIN: mount a tmpfs", WEAKENED),
        (11, "new_mount_api", "CAP_SYS_ADMIN: fsopen", WEAKENED),
        (12, "other_namespace", "CAP_SYS_ADMIN: setns into another process's network", WEAKENED),
        (13, "hostname", "CAP_SYS_ADMIN: sethostname", WEAKENED),
        (14, "swap", "CAP_SYS_ADMIN: swapon", WEAKENED),
        (15, "chroot", "CAP_SYS_CHROOT: chroot", WEAKENED),
        (16, "file_handles", "CAP_DAC_READ_SEARCH: open_by_handle_at, any file of a mounted file system", WEAKENED),
        (17, "file_capability", "CAP_SETFCAP: a file that gives capabilities", WEAKENED),
        (18, "clock", "CAP_SYS_TIME: settimeofday", WEAKENED),
        (19, "network_settings", "CAP_NET_ADMIN: set an interface's flags", WEAKENED),
        (20, "priority", "CAP_SYS_NICE: a priority above the others'", WEAKENED),
        (21, "reboot", "CAP_SYS_BOOT: reboot", WEAKENED),
        (22, "kernel_log", "CAP_SYSLOG: read the kernel's log", WEAKENED),
        (23, "bpf", "CAP_BPF: make a map", WEAKENED),
        (24, "performance_events", "CAP_PERFMON: measure a whole processor", WEAKENED),
        (25, "page_faults", "handle page faults of the kernel (userfaultfd)", WEAKENED),
    ),
    *_of("release_agent", (26, "release_agent", "mount cgroup v1 and open release_agent for writing", WEAKENED)),
    *_of("core_pattern", (27, "core_pattern", "open /proc/sys/kernel/core_pattern for writing", WEAKENED)),
    *_of(
        "/proc and /sys writes",
        (28, "host_settings", "open a file of /proc/sys for writing", WEAKENED),
        (29, "sys_write", "make /sys writable and open a setting of the kernel there", WEAKENED),
    ),
    *_of("device nodes", (30, "device_node", "mknod of a device", WEAKENED)),
    *_of(
        "setuid file reaching the host through the workspace",
        (31, "setuid_bit", "chmod to setuid", WEAKENED),
        (32, "setuid_bit_at_creation", "create a setuid file", WEAKENED),
        (
            33, "setuid_through_workspace",
            "leave a setuid file, a device, a file of root or one with capabilities in a host directory",
            "the same program where the directory is bound as Docker does it, for root and with capabilities",
        ),
    ),
    *_of(
        "ptrace and /proc/PID/mem of the runner",
        (34, "runner_ptrace", "PTRACE_SEIZE", WEAKENED),
        (35, "runner_memory", "open /proc/PID/mem", WEAKENED),
        (36, "runner_environ", "read /proc/PID/environ", WEAKENED),
        (37, "runner_descriptors", "read its descriptors' links", WEAKENED),
        (38, "runner_signal", "find it by a signal", WEAKENED),
    ),
    *_of(
        "siblings' environ",
        (39, "sibling_environ", "a shell reads the environment of a skill's server beside it", "two processes of one uid, no Landlock"),
        (40, "sibling_memory", "reads its memory", "two processes of one uid, no Landlock"),
        (41, "sibling_signal", "sends it a signal", "two processes of one uid, no Landlock"),
        (42, "skill_processes", "finds any process of a skill that has a sandbox of its own", "the skill is `shared`"),
        (43, "skill_files", "finds what such a skill's server writes into its home and /tmp", "the skill is `shared`"),
        (44, "skill_hosts", "connects to a host of such a skill's allowedDomains", "the skill itself is let past its list"),
        (45, "skill_workspace", "such a skill's server writes into the workspace", '`workspace = "rw"`'),
        (46, "expert_processes", "such a skill's server finds a process of the expert's sandbox", "the skill is `shared`"),
    ),
    *_of(
        "taking the runner's place on the socket",
        (47, "gateway_write", "make a socket of its own in /gw", WEAKENED),
        (48, "runner_socket", "begin a second session: over the connection that there is, and by the socket", "a daemon that does not know its runner"),
        (49, "runner_place_after_restart", "be the first on the socket that a restarted daemon makes, while the runner of an idle sandbox stands still", "a daemon that asks for no token"),
        (50, "runner_place_in_a_run", "the same in a sandbox whose run is under way", "a daemon that asks for no token"),
    ),
    *_of(
        "abstract sockets",
        (51, "abstract_socket", "dial an abstract socket of the host", WEAKENED),
        (52, "sibling_abstract_socket", "dial an abstract socket of a sibling", "two processes of one uid, no Landlock"),
    ),
    *_of(
        "keyring",
        (53, "keyring", "add_key", WEAKENED),
        (54, "session_keyring", "join a session keyring by its name", WEAKENED),
    ),
    *_of(
        "user namespaces",
        (55, "user_namespace", "unshare", WEAKENED),
        (56, "mount_namespace", "unshare the mounts", WEAKENED),
    ),
    *_of("io_uring", (57, "io_uring", "io_uring_setup", WEAKENED)),
    *_of(
        "raw and packet sockets",
        (58, "raw_socket", "a raw ICMP socket", WEAKENED),
        (59, "packet_socket", "a packet socket", WEAKENED),
        (60, "uevents", "the kernel's uevents", WEAKENED),
        (61, "vsock", "a socket to the hypervisor", WEAKENED),
        (62, "interfaces", "see an interface beside loopback", WEAKENED),
    ),
    *_of(
        "another sandbox's socket, workspace, processes",
        (63, "other_sockets", "find a socket but its own in the file system, and dial it", WEAKENED),
        (64, "other_processes", "see a process of another", "a container in the process namespace of another"),
        (65, "other_workspace", "find a file of another job's workspace", "a job on the same workspace"),
        (66, "other_allowance", "connect where only another sandbox may", "the other one is let past its list"),
    ),
    *_of(
        "symlink, rename and hard-link races on the workspace, by the sandbox and against host readers",
        (67, "symlink_race", "exchange a directory and a link to /etc while tools read below it", "a program that follows links reads below it"),
        (68, "rename_race", "exchange a directory and a link out of the workspace while tools write below it", "a program that checks the path and then writes"),
        (69, "hard_link", "a hard link to a file outside", WEAKENED),
        (70, "host_reader", "exchange a directory and a link out of the workspace while the host reads a file of it", "a reader that opens by path"),
        (71, "host_archive", "the same while the host packs the tree", "a packer that opens by path"),
        (72, "planted_link", "name a link below a root as workspace", "the same client names the directory itself"),
    ),
    *_of(
        "magic links",
        (73, "runner_root", "list /proc/PID/root of the runner", WEAKENED),
        (74, "magic_links", "read and write by links to /proc/self/root, /proc/self/fd and special files", "a program that follows them"),
    ),
    *_of(
        "fork, memory, disk, inode, inotify, fd, log bombs (also: does another sandbox notice?)",
        (75, "fork_bomb", "more processes than the limit", NO_BOUNDS),
        (76, "memory_bomb", "more memory than the limit", NO_BOUNDS),
        (77, "disk_bomb", "more bytes than the tmpfs", NO_BOUNDS),
        (78, "inode_bomb", "more files than the tmpfs", NO_BOUNDS),
        (79, "inotify_bomb", "all inotify instances of its uid, while another sandbox wants one", "two containers of one uid"),
        (80, "descriptor_bomb", "more open files than the limit", NO_BOUNDS),
        (81, "log_bomb", "more than the runner's log file may hold", NO_BOUNDS),
        (82, "output_bomb", "endless output of a call into the events", "a short output is there in full"),
        (83, "all_bombs", "all without end, at once, while a neighbour works and the daemon answers", "each is let run past its bound without bounds"),
    ),
    *_of("zombie storm", (84, "zombies", "hundreds of zombies, and orphans that nobody waits for", NO_BOUNDS)),
    *_of(
        "connect and stream floods at the daemon (huge frames, slow reads, malformed protobuf)",
        (85, "connect_flood", "dial the way out again and again and hold all of them", "a proxy with room for all"),
        (86, "huge_frames", "a runner sends a message of twice the bound", NO_LAW),
        (87, "message_flood", "a runner sends messages as fast as it can", NO_LAW),
        (88, "slow_reads", "a watcher reads nothing while a sandbox floods: little is kept for it", "a feed without a bound"),
        (89, "malformed_messages", "a runner sends bytes that are no message", "the same program sends a message"),
        (90, "malformed_requests", "a client sends bytes that are no request, or 10 MiB of them", "the same client sends a request"),
    ),
    *_of(
        "forged results, steps, delegates, questions",
        (91, "forged_results", "a skill's sandbox answers the expert's call", NO_LAW),
        (92, "forged_steps", "a runner reports and asks for steps that the run is not at", NO_LAW),
        (93, "forged_delegates", "a runner answers the call of a delegate", NO_LAW),
        (94, "forged_questions", "a skill's sandbox asks a person something for another's call", OWN),
        (95, "forged_tool_lists", "a sandbox tells tools of a skill that it does not host", NO_LAW),
        (96, "forged_completion", "a runner answers the call that ends the run", NO_LAW),
        (97, "forged_blobs", "a result that refers to another job's blob, or to bytes that did not come", OWN),
    ),
    *_of(
        "replayed answers",
        (98, "replayed_answer", "answer a question again otherwise, or by the id of another job's", "the first answer is taken"),
        (99, "replayed_results", "a runner sends results again with another content", NO_LAW),
    ),
    *_of(
        "planted package managers' files",
        (100, "planted_node_modules", "npx finds a package in the workspace's node_modules and runs it with the key", "a shared skill"),
        (101, "planted_python", "Python imports from the workspace", "a shared skill"),
    ),
    *_of(
        "egress: direct IP, IPv6, gateway, metadata address in decimal, octal and mapped forms, rebinding, SNI ≠ host, CONNECT to IP, smuggling",
        (102, "direct_address", "dial public, private and host addresses", "a network namespace that has them"),
        (103, "direct_ipv6", "dial IPv6 addresses", "a network namespace that has them"),
        (104, "gateway", "dial the bridge's gateway", "a network namespace that has it"),
        (105, "metadata_decimal", "169.254.169.254 as one number", "a network namespace that has it"),
        (106, "metadata_octal", "in octal and hexadecimal", "a network namespace that has it"),
        (107, "metadata_mapped", "mapped into IPv6", "a network namespace that has it"),
        (108, "connect_to_address", "CONNECT to an address, in every notation", "CONNECT to the allowed name of the same server"),
        (109, "name_of_the_inside", "an allowed name that leads to the host itself", "the operator allows the address"),
        (110, "rebinding", "a name whose address changes from one look-up to the next", "it changes to where it may lead"),
        (111, "other_server_name", "a TLS server name that is not the host, or none", "the same client names the host"),
        (112, "smuggling", "requests that could be read in two ways", "the same request without its second reading"),
        (113, "host_loopback", "dial a port of the host's loopback", WEAKENED),
    ),
    *_of(
        "secrets looked for in environ of every pid, argv, inspect, labels, image history, core dump, events, log, error text",
        (114, "secret_in_processes", "in environ, argv and memory of every process, and all files, from the expert's shell", "the skill's server itself finds it"),
        (115, "secret_in_inspect", "in what the engine tells: inspect, top, diff", "a container that was given it there"),
        (116, "secret_in_labels", "in labels and image history", "an image that was given it there"),
        (117, "secret_in_core", "in a core dump of its server", "a container without the limit"),
        (118, "secret_in_events", "in events, by a server that prints it in results, output and standard error", "a word that is no secret"),
        (119, "secret_in_log", "in the daemon's log, also by a runner that gives up with it", "a word that is no secret"),
        (120, "secret_in_errors", "in error texts of a run that fails by it", "a word that is no secret"),
        (121, "secret_at_rest", "in the state directory: store, blobs, recorded documents", "a word that is no secret"),
        (122, "secret_in_exports", "in the export of the job", "a word that is no secret"),
        (123, "secret_in_backups", "in a backup of the store", "a word that is no secret"),
    ),
    *_of(
        "another tenant's jobs, events, secrets, workspaces by id guessing and replayed cursors",
        (124, "guessed_jobs", "ids that are guessed, cut, or no ids", "the job's own id"),
        (125, "replayed_cursors", "cursors of another job, past the end, or made up", "the job's own"),
        (126, "other_artefacts", "an expert reads an artefact of another job by its id", "the job that it is of"),
        (127, "other_history", "an expert searches for what another job said", "the job that said it"),
        (128, "other_checkpoints", "a checkpoint of another job", "the job's own"),
        (129, "other_tenants", "name another tenant in every request that takes one", "the tenant's own name"),
        (130, "workspace_names", "workspaces by names that lead elsewhere", "a workspace's own name"),
    ),
    *_of(
        "each dangerous capability",
        (131, "foreign_file", "CAP_DAC_OVERRIDE: read a file of root's", WEAKENED),
        (132, "foreign_owner", "CAP_CHOWN: give a file to another", WEAKENED),
        (133, "foreign_groups", "CAP_SETGID: setgroups", WEAKENED),
        (134, "accounting", "CAP_SYS_PACCT: acct", WEAKENED),
        (135, "hang_up", "CAP_SYS_TTY_CONFIG: vhangup", WEAKENED),
    ),
    *_of("user namespaces", (136, "cloned_namespace", "clone and clone3", WEAKENED)),
    *_of("raw and packet sockets", (137, "other_abi", "a 32-bit system call: among them the family of a socket is hidden", WEAKENED)),
    *_of(
        "fork, memory, disk, inode, inotify, fd, log bombs (also: does another sandbox notice?)",
        (138, "pipe_bomb", "all pipe pages of its uid, while another sandbox wants a pipe", "two containers of one uid"),
    ),
    *_of(
        "another tenant's jobs, events, secrets, workspaces by id guessing and replayed cursors",
        (139, "other_secrets", "an expert requires a stored secret that another expert was granted", "the expert that was granted it"),
    ),
    *_of(
        "device nodes",
        (140, "whiteout_node", "mknod and mknodat of the device 0:0, for which Linux asks for no capability", WEAKENED),
        (141, "whiteout_by_renaming", "renameat2 that leaves the device 0:0 where the file was", WEAKENED),
    ),
)  # fmt: skip
BY_NAME = {attack.name: attack for attack in ATTACKS}
NOT_APPLICABLE = {
    "CAP_SYS_MODULE: loading a module": "this kernel has no modules",
    "CAP_SYS_RAWIO: I/O ports, /dev/mem, /proc/kcore": "this kernel has none of them",
    "CAP_SYS_BOOT: kexec; /proc/sysrq-trigger": "this kernel has neither",
    "CAP_KILL, CAP_IPC_OWNER, CAP_FOWNER": "all of a sandbox has one uid: there is nobody else whose processes or files they would reach",
    "CAP_SYS_RESOURCE: limits above the hard ones": "this machine's own bounding set lacks it, so that no control can have it",
    "AppArmor": "this kernel has none; where a host has it, the posture checks it",
    "Kata's own surfaces": "it is no runtime of sandboxes",
    "egress to a metadata service that answers": "whether one is there is the machine's matter; its address is tried (ESC-105 to 107)",
    "another tenant with a token of its own": "there is one tenant yet, and everyone at the socket is an administrator (SECURITY.md); "
    "what one job can reach of another is tried (ESC-065, 066, 097, 126 to 128)",
}
