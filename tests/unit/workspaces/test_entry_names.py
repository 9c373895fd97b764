"""Which names and links of an archive are taken."""

import pytest

from perstackd.adapters.workspaces.entry_names import MAX_DEPTH, checked_link, parts_of, prefix_of
from perstackd.adapters.workspaces.tar_reader import Entry, EntryKind
from perstackd.domain.errors import PerstackError


@pytest.mark.parametrize(
    ("path", "parts"),
    [(b"a", (b"a",)), (b"./a//b/", (b"a", b"b")), (b".", ()), (b"", ()), (b"..a/b..", (b"..a", b"b.."))],
)
def test_a_relative_path_is_its_names(path: bytes, parts: tuple[bytes, ...]) -> None:
    assert parts_of(path) == parts


@pytest.mark.parametrize("path", [b"/a", b"..", b"a/../b", b"a/..", b"a\0b", b"n" * 256, b"d/" * (MAX_DEPTH + 1)])
def test_a_path_that_leads_out_or_is_too_long_is_refused(path: bytes) -> None:
    with pytest.raises(PerstackError, match="nothing was unpacked"):
        parts_of(path)


@pytest.mark.parametrize(
    ("path", "why"), [(b"n" * 256, "more than 255 bytes"), (b"a\0b", "zero byte"), (b"d/" * 65, "deeper than 64")]
)
def test_the_refusal_says_which_bound_it_was(path: bytes, why: str) -> None:
    with pytest.raises(PerstackError, match=why):
        parts_of(path)


@pytest.mark.parametrize("path", ["../x", "/x", "n" * 256])
def test_a_directory_to_unpack_into_is_no_entry_of_the_archive(path: str) -> None:
    assert prefix_of("reports/47/") == (b"reports", b"47")
    with pytest.raises(PerstackError, match="is no directory of a workspace") as refused:
        prefix_of(path)
    assert refused.value.reason == "workspace_invalid"


def link(target: bytes) -> Entry:
    return Entry(b"l", EntryKind.SYMLINK, target=target)


@pytest.mark.parametrize(
    ("target", "depth"),
    [(b"a", 0), (b"a/b", 0), (b"../a", 1), (b"../../a/b", 2), (b"./../a", 1), (b"..", 1), (b".", 0)],
)
def test_a_link_within_the_tree_is_kept_as_it_is(target: bytes, depth: int) -> None:
    assert checked_link(link(target), depth) == target


@pytest.mark.parametrize(
    ("target", "depth"),
    [(b"/etc", 5), (b"..", 0), (b"../a", 0), (b"../../a", 1), (b"", 3), (b"a/../../x", 1), (b"a/..", 3), (b"a\0b", 1)],
)
def test_a_link_that_leaves_the_tree_or_could_is_refused(target: bytes, depth: int) -> None:
    with pytest.raises(PerstackError) as refused:
        checked_link(link(target), depth)
    assert refused.value.reason == "archive_refused"
