"""applyPatch: a patch on the files of a workspace, all of it or nothing.

First every file is locked, read, patched and written beside; what does not fit is collected. Then all changes are made,
or taken back (change_set.py). A reader sees each file old or new, but may see some old and some new; and what kills the
runner in between leaves it so.
"""

import os
import stat
import time
from contextlib import ExitStack
from errno import ENOTEMPTY
from functools import partial
from typing import Any, Final

from perstack_runner.tools import hunk, patch
from perstack_runner.tools.change_set import ChangeSet
from perstack_runner.tools.outcome import Outcome, ToolFailure, from_os_error
from perstack_runner.tools.patch import FilePatch
from perstack_runner.tools.replace import LOCK_SECONDS, locked
from perstack_runner.tools.text_file import whole
from perstack_runner.tools.tree import Place, Tree

PATCH_BYTES: Final = 1 << 20
MOST_FAILURES: Final = 8

Failure = dict[str, Any]


def apply(tree: Tree, arguments: dict[str, Any]) -> Outcome:
    """Apply a unified diff.

    Raises:
        ToolFailure: invalid_patch, binary_patch; hunk_mismatch and others, with `failures` by file and hunk. Nothing
            was changed then, or `left` names what could not be put back.
    """
    text = arguments["patch"]
    if len(text) > PATCH_BYTES or len(text.encode("utf-8", "replace")) > PATCH_BYTES:
        raise ToolFailure("invalid_patch", f"a patch has {PATCH_BYTES >> 20} MiB at most; give it in parts")
    files = patch.parse(text)
    with ExitStack() as held:
        changes = ChangeSet(held)
        try:
            staging = _Staging(tree, held, changes)
            for file in sorted(files, key=lambda file: file.path):  # one order, so that no two patches block each other
                staging.stage(file)
            _make(changes, staging.failures)
        except BaseException as error:
            left = changes.undo()
            if left and isinstance(error, ToolFailure):
                error.more["left"] = left
            raise
        changes.finish()
    return Outcome({"files": [staging.reports[file.path] for file in files]})


def _make(changes: ChangeSet, failures: list[Failure]) -> None:
    if failures:
        raise _not_changed(failures)
    failed = changes.commit()
    if failed is not None:
        raise _not_changed([_failure(*failed)])


class _Staging:
    """Prepares what a patch does to each file. `failures` is what is wrong with it, `reports` are by path."""

    def __init__(self, tree: Tree, held: ExitStack, changes: ChangeSet) -> None:
        self._tree = tree
        self._held = held
        self._changes = changes
        self._deadline = time.monotonic() + LOCK_SECONDS
        self.failures: list[Failure] = []
        self.reports: dict[str, dict[str, Any]] = {}

    def stage(self, file: FilePatch) -> None:
        """Prepare a file's change, or keep what is wrong."""
        if len(self.failures) >= MOST_FAILURES:
            return
        try:
            self._prepare(file)
        except ToolFailure as failure:
            self.failures.append({"file": file.path, "error": failure.name, "message": failure.message})
        except OSError as error:
            self.failures.append(_failure(file.path, error))

    def _prepare(self, file: FilePatch) -> None:
        source = target = None
        content, mode = b"", 0o755 if file.executable else None
        same = not file.hunks and file.executable is None
        if file.source:
            source = self._place(file.source)
            descriptor = self._locked(source)
            mode = _mode(os.fstat(descriptor).st_mode, executable=file.executable)
            content = b"" if same and file.target else whole(descriptor, file.source)
        patched = self._patched(file, content)
        if file.target and file.target != file.source:
            target = self._free_place(file.target)
        if self.failures:
            return
        if source is not None and target is not None and same:
            self._changes.rename(source, target)
            return
        if target is not None:
            self._changes.write(target, patched, mode, new=True)
        elif source is not None and file.target:
            self._changes.write(source, patched, mode, new=False)
        if source is not None and source.shown != file.target:
            self._changes.delete(source)

    def _place(self, path: str, *, make_parents: bool = False) -> Place:
        """As Tree.place, but holding one descriptor. A link at its end is not followed."""
        with self._tree.place(path, make_parents=make_parents, follow=False) as place:
            directory = os.dup(place.directory)
        self._held.callback(os.close, directory)
        return place._replace(directory=directory)

    def _locked(self, place: Place) -> int:
        found = os.stat(place.name, dir_fd=place.directory, follow_symlinks=False)
        if stat.S_ISLNK(found.st_mode):
            raise ToolFailure("not_a_file", f"{place.shown}: a symbolic link; name the file that it points to")
        return self._held.enter_context(locked(self._tree, place, os.O_RDONLY, self._deadline))

    def _free_place(self, path: str) -> Place:
        for parent in reversed(_missing_parents(self._tree, path)):
            self._changes.undone_by(path, partial(_remove_directory, self._tree, parent))
        place = self._place(path, make_parents=True)
        try:
            os.stat(place.name, dir_fd=place.directory, follow_symlinks=False)
        except FileNotFoundError:
            return place
        raise ToolFailure("already_exists", f"{path}: is there already; the patch is to create it")

    def _patched(self, file: FilePatch, content: bytes) -> bytes:
        if b"\0" in content:
            raise ToolFailure("not_text", f"{file.path}: a binary file")
        applied = hunk.apply(content, file.hunks)
        for misfit in applied.misfits:
            self.failures.append({"file": file.path, "error": "hunk_mismatch", **misfit._asdict()})
        if not applied.misfits and applied.content and not file.target:
            raise ToolFailure("hunk_mismatch", f"{file.path}: the patch deletes it, but not all of its lines")
        self.reports[file.path] = _report(file, applied.moved)
        return applied.content


def _report(file: FilePatch, moved: dict[int, int]) -> dict[str, Any]:
    kinds = {(True, False): "deleted", (False, True): "created"}
    report: dict[str, Any] = {"path": file.target or file.source}
    report["change"] = kinds.get((bool(file.source), bool(file.target)), "modified")
    if file.source and file.target and file.source != file.target:
        report |= {"change": "renamed", "from": file.source}
    report |= {"added": sum(h.added for h in file.hunks), "removed": sum(h.removed for h in file.hunks)}
    if moved:
        report["offsets"] = {f"hunk {number}": lines for number, lines in moved.items()}
    return report


# --- directories that are to be made ----------------------------------------------------------------------------------
def _missing_parents(tree: Tree, path: str) -> list[str]:
    """The innermost first."""
    missing = []
    parent = os.path.dirname(path)  # noqa: PTH120 - of the text, not of a file system
    while parent.strip("/") and not _exists(tree, parent):
        missing.append(parent)
        parent = os.path.dirname(parent)  # noqa: PTH120
    return missing


def _exists(tree: Tree, path: str) -> bool:
    try:
        with tree.place(path) as place:
            os.stat(place.name, dir_fd=place.directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _remove_directory(tree: Tree, path: str) -> None:
    with tree.place(path, follow=False) as place:
        try:
            os.rmdir(place.name, dir_fd=place.directory)
        except OSError as error:
            if error.errno != ENOTEMPTY:  # somebody else uses it by now
                raise


def _mode(mode: int, *, executable: bool | None) -> int:
    if executable is None:
        return mode
    return mode | 0o111 if executable else mode & ~0o111


def _failure(path: str, error: OSError) -> Failure:
    failure = from_os_error(error, path)
    return {"file": path, "error": failure.name, "message": failure.message}


def _not_changed(failures: list[Failure]) -> ToolFailure:
    names = {failure["error"] for failure in failures}
    first = failures[0]
    where = f"{first['file']}, hunk {first['hunk']}" if "hunk" in first else first["file"]
    message = first["message"] if first["message"].startswith(first["file"]) else f"{where}: {first['message']}"
    more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
    name = names.pop() if len(names) == 1 else "patch_failed"
    return ToolFailure(name, f"Nothing was changed. {message}{more}", failures=failures[:MOST_FAILURES])
