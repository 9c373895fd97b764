"""Running other programs and telling what is done; a failure ends this program with a sentence."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import NoReturn


def say(text: str) -> None:
    """One line of progress."""
    sys.stderr.write(f"{text}\n")


def fail(text: str) -> NoReturn:
    """Say what is wrong and what to do, and end with 1."""
    say(f"error: {text}")
    sys.exit(1)


def run(argv: Sequence[str], *, timeout: float = 1800) -> None:
    """Run a command with its output shown; ends this program when it fails."""
    try:
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr, timeout=timeout)  # noqa: S603
    except FileNotFoundError:
        fail(f"`{argv[0]}` is not installed")
    except subprocess.CalledProcessError as error:
        fail(f"`{argv[0]} {argv[1]}` ended with {error.returncode}; its own message stands above")
    except subprocess.TimeoutExpired:
        fail(f"`{argv[0]} {argv[1]}` was not done after {timeout:.0f} s")


def ask(argv: Sequence[str], *, timeout: float = 60) -> tuple[int, str]:
    """Run a command quietly: its exit code and all of its output."""
    try:
        done = subprocess.run(  # noqa: S603
            argv, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout
        )
    except FileNotFoundError:
        return 127, f"{argv[0]} is not installed"
    except subprocess.TimeoutExpired:
        return 124, f"no answer within {timeout:.0f} s"
    return done.returncode, (done.stdout + done.stderr).strip()


@contextlib.contextmanager
def step(text: str) -> Iterator[None]:
    """Shows what is being done, then how long it took."""
    say(f"==> {text}")
    began = time.monotonic()
    yield
    say(f"    done in {time.monotonic() - began:.1f} s")
