"""Changes to several files that are made together or not at all.

What is to be written lies beside first, so that little can fail later. The old files are kept beside until all changes
are made, and all locks, also on the new files, are held to the end, so that nobody's edit comes in between and is lost.
"""

import os
from collections.abc import Callable
from contextlib import ExitStack
from fcntl import LOCK_EX, LOCK_NB, flock
from functools import partial

from perstack_runner.tools.file_entry import rename_without_replacing
from perstack_runner.tools.replace import beside, discard, temporary_name
from perstack_runner.tools.tree import Place

Step = Callable[[], None]


class ChangeSet:
    """What is to be done, what was done, and how it is undone. Descriptors and locks are `held`."""

    def __init__(self, held: ExitStack) -> None:
        self._held = held
        self._steps: list[tuple[str, Step]] = []
        self._undo: list[tuple[str, Step]] = []
        self._finish: list[Step] = []

    def write(self, place: Place, content: bytes, mode: int | None, *, new: bool) -> None:
        """Have a file created, or replaced. Raises OSError when there is no room for it."""
        temporary, descriptor = beside(place, content, mode)
        self._held.callback(os.close, descriptor)
        self.undone_by(place.shown, partial(discard, place, temporary))
        flock(descriptor, LOCK_EX | LOCK_NB)  # nobody else has it yet, and whoever finds it later waits for all of us
        step = self._create if new else self._replace
        self._steps.append((place.shown, partial(step, place, temporary)))

    def delete(self, place: Place) -> None:
        """Have a file deleted."""
        old = place._replace(name=temporary_name())
        self._steps.append((place.shown, partial(self._move, place, old)))
        self._finish.append(partial(discard, old, old.name))

    def rename(self, source: Place, target: Place) -> None:
        """Have a file renamed to a name that is free."""
        self._steps.append((source.shown, partial(self._move, source, target)))

    def undone_by(self, path: str, step: Step) -> None:
        """Have `step` undo what was just done for `path`; the last comes first."""
        self._undo.append((path, step))

    def commit(self) -> tuple[str, OSError] | None:
        """Do it all, up to the first that fails: its path and why. Nothing is undone yet."""
        for path, step in self._steps:
            try:
                step()
            except OSError as error:
                return path, error
        return None

    def undo(self) -> list[str]:
        """Put everything back; the paths for which that failed."""
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
        """Let go of the old files. What cannot be removed stays beside: the changes are made all the same."""
        for step in self._finish:
            step()

    def _create(self, place: Place, temporary: str) -> None:
        rename_without_replacing(place._replace(name=temporary), place)
        self.undone_by(place.shown, partial(os.unlink, place.name, dir_fd=place.directory))

    def _replace(self, place: Place, temporary: str) -> None:
        old, directory = temporary_name(), place.directory
        os.link(place.name, old, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
        self.undone_by(place.shown, partial(discard, place, old))  # renaming a file to another name of it does nothing
        self.undone_by(place.shown, partial(_rename, place, old, place.name))
        _rename(place, temporary, place.name)
        self._finish.append(partial(discard, place, old))

    def _move(self, source: Place, target: Place) -> None:
        rename_without_replacing(source, target)
        self.undone_by(source.shown, partial(rename_without_replacing, target, source))


def _rename(place: Place, source: str, target: str) -> None:
    os.rename(source, target, src_dir_fd=place.directory, dst_dir_fd=place.directory)
