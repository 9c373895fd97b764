"""applyPatch: a patch on the files of a workspace, all of it or nothing.

First every file is locked, read, patched and written beside; what does not fit is collected. Then the new files are
renamed to their names, with the old ones kept beside until all are there: when one fails the others are put back. All
locks, also on the new files, are held to the end, so that nobody's edit comes in between. A reader sees each file old
or new, but may see some old and some new; and what kills the runner in between leaves it so.
"""

import os
import stat
import time
from collections.abc import Callable
from contextlib import ExitStack
from errno import ENOTEMPTY
from fcntl import LOCK_EX, LOCK_NB, flock
from functools import partial
from typing import Any, Final

from perstack_runner.tools import hunk, patch
from perstack_runner.tools.file_entry import rename_without_replacing
from perstack_runner.tools.outcome import Outcome, ToolFailure, from_os_error
from perstack_runner.tools.patch import FilePatch
from perstack_runner.tools.replace import LOCK_SECONDS, beside, discard, locked, temporary_name
from perstack_runner.tools.text_file import whole
from perstack_runner.tools.tree import Place, Tree

PATCH_BYTES: Final = 1 << 20
MOST_FAILURES: Final = 8

Step = Callable[[], None]
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
        changes = _Changes(tree, held)
        try:
            for file in sorted(files, key=lambda file: file.path):  # one order, so that no two patches block each other
                changes.stage(file)
            changes.commit()
        except BaseException as error:
            left = changes.undo()
            if left and isinstance(error, ToolFailure):
                error.more["left"] = left
            raise
        changes.finish()
        return Outcome({"files": [changes.reports[file.path] for file in files]})


class _Changes:
    """What is to be done, what was done, and how it is undone. Descriptors and locks are `held`."""

    def __init__(self, tree: Tree, held: ExitStack) -> None:
        self._tree = tree
        self._held = held
        self._deadline = time.monotonic() + LOCK_SECONDS
        self._steps: list[tuple[str, Step]] = []
        self._undo: list[tuple[str, Step]] = []
        self._finish: list[Step] = []
        self._failures: list[Failure] = []
        self.reports: dict[str, dict[str, Any]] = {}

    def stage(self, file: FilePatch) -> None:
        """Prepare a file's change; what is wrong with it is kept for commit."""
        if len(self._failures) >= MOST_FAILURES:
            return
        try:
            self._prepare(file)
        except ToolFailure as failure:
            self._failures.append({"file": file.path, "error": failure.name, "message": failure.message})
        except OSError as error:
            self._failures.append(_failure(file.path, error))

    def commit(self) -> None:
        """Do it all. Raises ToolFailure when something was wrong, or goes wrong now."""
        if self._failures:
            raise _not_changed(self._failures)
        for path, step in self._steps:
            try:
                step()
            except OSError as error:
                raise _not_changed([_failure(path, error)]) from None

    def undo(self) -> list[str]:
        """Put everything back, the last first; the paths for which that failed."""
        left = []
        while self._undo:
            path, step = self._undo.pop()
            try:
                step()
            except FileNotFoundError:
                continue  # somebody else took it away, so there is nothing to take back
            except OSError:
                left.append(path)
        return left

    def finish(self) -> None:
        """Let go of the old files. What cannot be removed stays beside: the patch is applied all the same."""
        for step in self._finish:
            step()

    # --- preparing ----------------------------------------------------------------------------------------------------
    def _prepare(self, file: FilePatch) -> None:
        source = target = None
        content, mode = b"", None
        if file.source:
            source = self._place(file.source)
            descriptor = self._locked(source)
            mode = _mode(os.fstat(descriptor).st_mode, executable=file.executable)
            if file.hunks or file.executable is not None or not file.target:
                content = whole(descriptor, file.source)
        elif file.executable:
            mode = 0o755
        patched, moved = self._patched(file, content)
        if file.target and file.target != file.source:
            target = self._free_place(file.target)
        self._report(file, moved)
        if source is not None and target is not None and not file.hunks and file.executable is None:
            self._rename(source, target)
            return
        if file.target:
            self._write(target or source, patched, mode, new=target is not None)
        if source is not None and source.shown != file.target:
            self._delete(source)

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
        for parent in reversed(self._missing_parents(path)):
            self._undo.append((path, partial(self._remove_directory, parent)))
        place = self._place(path, make_parents=True)
        try:
            os.stat(place.name, dir_fd=place.directory, follow_symlinks=False)
        except FileNotFoundError:
            return place
        raise ToolFailure("already_exists", f"{path}: is there already; the patch is to create it")

    def _missing_parents(self, path: str) -> list[str]:
        """Directories that are to be made, the innermost first."""
        missing = []
        parent = os.path.dirname(path)  # noqa: PTH120 - of the text, not of a file system
        while parent.strip("/") and not self._exists(parent):
            missing.append(parent)
            parent = os.path.dirname(parent)  # noqa: PTH120
        return missing

    def _exists(self, path: str) -> bool:
        try:
            with self._tree.place(path) as place:
                os.stat(place.name, dir_fd=place.directory, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def _remove_directory(self, path: str) -> None:
        with self._tree.place(path, follow=False) as place:
            try:
                os.rmdir(place.name, dir_fd=place.directory)
            except OSError as error:
                if error.errno != ENOTEMPTY:  # somebody else uses it by now
                    raise

    def _patched(self, file: FilePatch, content: bytes) -> tuple[bytes, dict[int, int]]:
        if b"\0" in content:
            raise ToolFailure("not_text", f"{file.path}: a binary file")
        applied = hunk.apply(content, file.hunks)
        for misfit in applied.misfits:
            self._failures.append({"file": file.path, "error": "hunk_mismatch", **misfit._asdict()})
        if not applied.misfits and applied.content and not file.target:
            raise ToolFailure("hunk_mismatch", f"{file.path}: the patch deletes it, but not all of its lines")
        return applied.content, applied.moved

    def _report(self, file: FilePatch, moved: dict[int, int]) -> None:
        kinds = {(True, False): "deleted", (False, True): "created"}
        renamed = file.source and file.target and file.source != file.target
        report: dict[str, Any] = {"path": file.target or file.source}
        report["change"] = "renamed" if renamed else kinds.get((bool(file.source), bool(file.target)), "modified")
        if renamed:
            report["from"] = file.source
        report["added"], report["removed"] = (
            sum(getattr(h, side) for h in file.hunks) for side in ("added", "removed")
        )
        if moved:
            report["offsets"] = {f"hunk {number}": lines for number, lines in moved.items()}
        self.reports[file.path] = report

    # --- steps --------------------------------------------------------------------------------------------------------
    def _write(self, place: Place | None, content: bytes, mode: int | None, *, new: bool) -> None:
        if place is None or self._failures:
            return
        temporary, descriptor = beside(place, content, mode)
        self._held.callback(os.close, descriptor)
        self._undo.append((place.shown, partial(discard, place, temporary)))
        flock(descriptor, LOCK_EX | LOCK_NB)  # nobody else has it yet, and whoever finds it later waits for all of us
        step = self._create if new else self._replace
        self._steps.append((place.shown, partial(step, place, temporary)))

    def _create(self, place: Place, temporary: str) -> None:
        rename_without_replacing(place._replace(name=temporary), place)
        self._undo.append((place.shown, partial(os.unlink, place.name, dir_fd=place.directory)))

    def _replace(self, place: Place, temporary: str) -> None:
        old, directory = temporary_name(), place.directory
        os.link(place.name, old, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
        self._undo.append(
            (place.shown, partial(discard, place, old))
        )  # a rename to a name of the same file does nothing
        self._undo.append((place.shown, partial(_rename, place, old, place.name)))
        _rename(place, temporary, place.name)
        self._finish.append(partial(discard, place, old))

    def _delete(self, place: Place) -> None:
        old = place._replace(name=temporary_name())
        self._steps.append((place.shown, partial(self._move, place, old)))
        self._finish.append(partial(discard, old, old.name))

    def _rename(self, source: Place, target: Place) -> None:
        self._steps.append((source.shown, partial(self._move, source, target)))

    def _move(self, source: Place, target: Place) -> None:
        rename_without_replacing(source, target)
        self._undo.append((source.shown, partial(rename_without_replacing, target, source)))


def _rename(place: Place, source: str, target: str) -> None:
    os.rename(source, target, src_dir_fd=place.directory, dst_dir_fd=place.directory)


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
