"""Exceptions that nobody foresaw, as a field of a log line.

Printing a traceback reads the source files, which would block the loop; names and lines are enough to find the place.
"""

from traceback import walk_tb

_FRAMES = 12


def place_of(error: BaseException) -> str:
    """The class and where it came from, innermost first. No message: an exception's text may hold anything."""
    frames = [(frame.f_code, line) for frame, line in walk_tb(error.__traceback__)][-_FRAMES:]
    places = (f"{code.co_filename}:{line} {code.co_name}" for code, line in reversed(frames))
    return f"{type(error).__name__} at {' < '.join(places)}"
