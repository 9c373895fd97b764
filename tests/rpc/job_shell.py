"""A shell with job control in miniature: `job_shell.py REPORT ORDERS PLACE COMMAND...`, its terminal on standard input.

REPORT and ORDERS are descriptors. Runs the command in the `fg` or `bg` (PLACE) of the terminal. Writes JSON lines: the
command's pid, then how it stopped or ended and whether the terminal echoed at that moment. Reads after each stop where
the command goes on. Unlike others it leaves the terminal's modes as it finds them.
"""

import fcntl
import json
import os
import signal
import sys
import termios


def main(report: int, orders: int, place: str, command: list[str]) -> None:
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # it hands the terminal out from wherever it is
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        if place == "fg":
            os.tcsetpgrp(0, os.getpid())
        signal.signal(signal.SIGTTOU, signal.SIG_DFL)
        os.execv(command[0], command)
    tell(report, {"pid": child})
    while True:
        _, status = os.waitpid(child, os.WUNTRACED)
        os.tcsetpgrp(0, os.getpgrp())
        echo = bool(termios.tcgetattr(0)[3] & termios.ECHO)
        if not os.WIFSTOPPED(status):
            tell(report, {"ended": os.waitstatus_to_exitcode(status), "echo": echo})
            return
        tell(report, {"stopped": os.WSTOPSIG(status), "echo": echo})
        if os.read(orders, 2) == b"fg":
            os.tcsetpgrp(0, child)
        os.killpg(child, signal.SIGCONT)


def tell(report: int, what: dict[str, int]) -> None:
    os.write(report, json.dumps(what).encode() + b"\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])
