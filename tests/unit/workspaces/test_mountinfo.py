from perstackd.adapters.workspaces.mountinfo import MountPoint, mounts, parse

LINES = rb"""27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
91 27 0:50 / /run/perstackd rw,nosuid shared:7 master:2 - tmpfs tmpfs rw,size=1k
92 91 0:50 /a\040b /run/perstackd/with\040space\134and rw,nodev,ro,idmapped shared:8 - fuse.x x rw
"""


def test_a_line_tells_path_file_system_options_and_whether_it_is_shared() -> None:
    assert parse(LINES) == (
        MountPoint(27, "/", "ext4", frozenset({"rw", "relatime"}), shared=False),
        MountPoint(91, "/run/perstackd", "tmpfs", frozenset({"rw", "nosuid"}), shared=True),
        MountPoint(
            92,
            "/run/perstackd/with space\\and",
            "fuse.x",
            frozenset({"rw", "nodev", "ro", "idmapped"}),
            shared=True,
        ),
    )


def test_this_machines_own_table_is_understood() -> None:
    assert any(mount.path == "/proc" and mount.file_system == "proc" for mount in mounts())
