"""perstack-runner [SOCKET] [--skills]: the process of a sandbox. First it becomes non-dumpable, then imports the rest.

--skills imports the MCP SDK before it connects, for a template whose sandboxes host skills.
"""

import sys
from typing import TYPE_CHECKING, Final

from perstack_runner import hardening

if TYPE_CHECKING:
    from perstack_runner.loop import Runner

_SOCKET: Final = "/gw/runner.sock"


def main() -> None:
    """Serve one session, then end the process with its exit code."""
    posture = hardening.protect()
    hardening.bound_arenas()
    arguments = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    code = 1
    try:
        code = _serve(posture, arguments[0] if arguments else _SOCKET, skills="--skills" in sys.argv)
    finally:
        # No teardown: a thread that hangs in a dead file system would keep the process, and the sandbox goes anyway.
        _exit(code)


def _exit(code: int) -> None:
    import os

    error = sys.exc_info()[1]
    if error is not None:
        # Its text could hold an argument or an environment value.
        where = error.__traceback__
        while where is not None and where.tb_next is not None:
            where = where.tb_next
        line = f"{where.tb_frame.f_code.co_filename}:{where.tb_lineno}" if where is not None else "start"
        sys.stderr.write(f"perstack-runner ended by {type(error).__name__} at {line}\n")
    sys.stderr.flush()
    os._exit(code)


def _serve(posture: hardening.Posture, socket_path: str, *, skills: bool) -> int:
    import gc
    import os

    # asyncio takes ssl when it is there: 4.6 MiB for a program that speaks to Unix sockets only. Put back for the SDK.
    sys.modules["ssl"] = None  # type: ignore[assignment]  # import machinery: None means "cannot be imported"
    try:
        import asyncio

        from perstack_runner.loop import Runner
        from perstack_runner.messages import Hello
        from perstack_runner.tools import catalogue
        from perstack_runner.workplace import Surroundings
    finally:
        del sys.modules["ssl"]
    if skills:
        import importlib

        # What they bring stays imported: the SDK, and the HTTP client that a remote skill needs.
        for module in ("perstack_runner.skills.skill_set", "perstack_runner.skills.remote", "httpcore2"):
            importlib.import_module(module)
    python = ".".join(map(str, sys.version_info[:3]))
    hello = Hello(python, posture.landlock_abi, posture.dumpable, hardening.self_view())
    surroundings = Surroundings(
        egress_path=os.path.join(os.path.dirname(socket_path), "egress.sock"),  # noqa: PTH118, PTH120 - before pathlib
        landlock_abi=posture.landlock_abi,
        adopts_orphans=posture.subreaper,
    )
    schemas = catalogue.load()
    gc.collect()
    gc.freeze()
    hardening.return_memory()
    return asyncio.run(_run(Runner(socket_path, hello, surroundings, schemas)))


async def _run(runner: "Runner") -> int:
    import asyncio
    import signal

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, runner.leave)
    return await runner.run()


if __name__ == "__main__":
    main()
