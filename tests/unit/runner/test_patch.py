"""Diffs as git, diff and models write them."""

import subprocess
from pathlib import Path

import pytest
from perstack_runner.tools.outcome import ToolFailure
from perstack_runner.tools.patch import FilePatch, parse

PLAIN = "--- a/f\n+++ b/f\n@@ -1,2 +1,2 @@\n a\n-b\n+c\n"


def one(text: str) -> FilePatch:
    (file,) = parse(text)
    return file


def refusal(text: str) -> str:
    with pytest.raises(ToolFailure) as caught:
        parse(text)
    assert caught.value.name in ("invalid_patch", "binary_patch")
    return caught.value.message


def test_a_hunk_has_its_old_and_its_new_lines() -> None:
    file = one(PLAIN)
    assert (file.source, file.target, file.executable) == ("f", "f", None)
    (hunk,) = file.hunks
    assert (hunk.number, hunk.line, hunk.start, hunk.old, hunk.new) == (1, 3, 1, b"a\nb\n", b"a\nc\n")
    assert (hunk.added, hunk.removed, hunk.tail_kept, hunk.old_open, hunk.new_open) == (1, 1, False, False, False)


@pytest.mark.parametrize(
    "header",
    [
        "--- a/f\n+++ b/f\n",
        "--- f\n+++ f\n",
        "--- a/f\t2024-01-01 00:00:00\n+++ b/f\t2024-01-01 00:00:01\n",
        "diff --git a/f b/f\nindex 123..456 100644\n--- a/f\n+++ b/f\n",
        "Here is the change:\n\n```diff\n--- a/f\n+++ b/f\n",
        '--- "a/f"\n+++ "b/f"\n',
        "Index: f\n=====\n--- f\n+++ f\n",
    ],
)
def test_headers_of_all_kinds_name_the_file(header: str) -> None:
    file = one(header + "@@ -1,2 +1,2 @@ def x():\n a\n-b\n+c\n")
    assert (file.source, file.target) == ("f", "f")


def test_a_directory_named_a_stays_when_there_is_no_prefix() -> None:
    assert one("--- a/f\n+++ a/f\n@@ -1 +1 @@\n-b\n+c\n").source == "a/f"


def test_creating_and_deleting_are_told_by_dev_null_or_by_gits_headers() -> None:
    created = one("--- /dev/null\n+++ b/x/new\n@@ -0,0 +1,2 @@\n+a\n+b\n")
    assert (created.source, created.target, created.hunks[0].new) == ("", "x/new", b"a\nb\n")
    deleted = one("--- a/old\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\n")
    assert (deleted.source, deleted.target) == ("old", "")
    empty = one("diff --git a/e b/e\nnew file mode 100755\nindex 000..e69\n")
    assert (empty.source, empty.target, empty.executable, empty.hunks) == ("", "e", True, ())
    assert one("diff --git a/e b/e\ndeleted file mode 100644\n").target == ""


def test_renames_and_modes_need_no_hunk() -> None:
    renamed = one("diff --git a/x b/y z\nsimilarity index 100%\nrename from x\nrename to y z\n")
    assert (renamed.source, renamed.target, renamed.hunks) == ("x", "y z", ())
    assert one("diff --git a/x b/x\nold mode 100644\nnew mode 100755\n").executable is True
    assert one("diff --git a/x b/x\nold mode 100755\nnew mode 100644\n").executable is False


def test_a_file_behind_one_without_hunks_is_another() -> None:
    first, second = parse("diff --git a/x b/y\nrename from x\nrename to y\n" + PLAIN)
    assert ((first.source, first.target, first.hunks), second) == (
        ("x", "y", ()),
        one(PLAIN)._replace(hunks=second.hunks),
    )
    assert len(parse("diff --git a/e b/e\nnew file mode 100644\n" + PLAIN)) == 2


@pytest.mark.parametrize("counts", ["-1,9 +1,9", "-1 +1", "-1,2 +1,3", "-1,1 +1,1"])
def test_counts_that_do_not_fit_are_counted_again(counts: str) -> None:
    text = f"--- a/f\n+++ b/f\n@@ {counts} @@\n a\n-b\n+c\n d\n\n--- a/g\n+++ b/g\n@@ -1 +1 @@\n-x\n+y\n"
    first, second = parse(text)
    assert (first.hunks[0].old, first.hunks[0].new) == (b"a\nb\nd\n", b"a\nc\nd\n")
    assert second.hunks[0].old == b"x\n"


def test_lines_that_look_like_headers_belong_to_a_hunk_that_counts_them() -> None:
    file = one("--- a/f\n+++ b/f\n@@ -1,2 +1,2 @@\n--- a/x\n-- \n+++ b/x\n+@@ -1 +1 @@\n")
    assert file.hunks[0].old == b"-- a/x\n- \n"
    assert file.hunks[0].new == b"++ b/x\n@@ -1 +1 @@\n"


def test_an_empty_line_is_one_of_context_whose_blank_was_lost() -> None:
    assert one("--- a/f\n+++ b/f\n@@ -1,3 +1,3 @@\n a\n\n-b\n+c\n").hunks[0].old == b"a\n\nb\n"


def test_a_missing_newline_is_of_the_line_before() -> None:
    note = "\\ No newline at end of file\n"
    (hunk,) = one(f"--- a/f\n+++ b/f\n@@ -1 +1 @@\n-b\n{note}+c\n").hunks
    assert (hunk.old_open, hunk.new_open) == (True, False)
    (hunk,) = one(f"--- a/f\n+++ b/f\n@@ -1 +1 @@\n-b\n+c\n{note}").hunks
    assert (hunk.old_open, hunk.new_open) == (False, True)
    (hunk,) = one(f"--- a/f\n+++ b/f\n@@ -1,2 +1,2 @@\n-b\n+c\n d\n{note}").hunks
    assert (hunk.old_open, hunk.new_open, hunk.tail_kept) == (True, True, True)


def test_a_mails_signature_is_none_of_the_patch() -> None:
    assert one(PLAIN + "-- \n2.39.5\n").hunks == one(PLAIN).hunks


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no file in it"),
        ("*** Begin Patch\n*** Update File: f\n@@\n-a\n+b\n", "line 3 of the patch: a hunk without a file"),
        ("--- a/f\n+++ b/f\n", "no hunk follows"),
        ("--- a/f\n+++ b/f\n@@ here @@\n-a\n+b\n", "line 3 of the patch: not a hunk's header"),
        ("--- a/f\n+++ b/f\n@@ -1 +1 @@\nnothing\n", "a hunk without lines"),
        ("--- a/f\n+++ b/g\n@@ -1 +1 @@\n-a\n+b\n", "f and g differ"),
        ("--- /dev/null\n+++ /dev/null\n@@ -1 +1 @@\n-a\n+b\n", "no hunk follows"),
        (PLAIN + PLAIN, "f: is in the patch twice"),
        ("diff --git a/f b/f\nBinary files a/f and b/f differ\n", "line 2 of the patch: binary"),
        ("diff --git a/f b/f\nnew file mode 120000\n", "only regular files"),
        ("diff --git a/f b/g\ncopy from f\ncopy to g\n", "copies are not made"),
        ("diff --git a/f b/g\n", "without its names"),
        ("--- a/f\n+++ b/f\n@@ -1,2 +1 @@\n-a\n\\ No newline\n-b\n+c\n", "no newline at the end"),
        ("--- a/f\n+++ b/f\n@@ -1 +1 @@\n-a\n+\ud800\n", "surrogate"),
        ("".join(PLAIN.replace("/f", f"/{n}") for n in range(101)), "101 files"),
    ],
)
def test_what_is_no_patch_is_refused_with_its_line(text: str, says: str) -> None:
    assert says in refusal(text)


def test_names_as_git_quotes_them_are_read(tmp_path: Path) -> None:
    names = ["plain", "with space", 'quo"te', "tab\tname", "ümläut", "back\\slash", "new\nline"]

    def git(*arguments: str) -> str:
        command = ["git", "-c", "user.name=x", "-c", "user.email=x@example.com", *arguments]
        done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True, timeout=30)
        return done.stdout

    git("init", "--quiet")
    for name in names:
        (tmp_path / name).write_text("a\n")
    git("add", ".")
    git("commit", "--quiet", "-m", "x")
    for name in names:
        (tmp_path / name).write_text("b\n")
    assert sorted(file.source for file in parse(git("diff"))) == sorted(names)
    git("mv", "plain", "sub ject")
    renamed = {file.source: file.target for file in parse(git("diff", "HEAD", "-M"))}
    assert renamed["with space"] == "with space"
