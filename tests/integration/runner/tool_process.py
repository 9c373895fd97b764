"""A process of its own that runs base tools on a directory: one side of two sandboxes, or one whose memory is measured.

Arguments: the directory, and a uid to become. Standard input: JSON lines [tool, arguments]. Standard output: a line for
each, {value, peak}; `peak` is what the process took at most so far, in KiB.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from perstack_runner.tools import patch_files  # noqa: F401 - the other uid may not be allowed to read it later
from perstack_runner.tools.outcome import ToolFailure
from perstack_runner.tools.toolbox import ON_TREE, _on_tree
from perstack_runner.tools.tree import Tree


def main() -> None:
    uid = int(sys.argv[2])
    if uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    tree = Tree(sys.argv[1])
    answer({})
    for line in sys.stdin:
        tool, arguments = json.loads(line)
        try:
            answer(_on_tree(ON_TREE[tool], tree, arguments).value)
        except ToolFailure as failure:
            answer(failure.outcome().value)


def answer(value: dict[str, Any]) -> None:
    # Not getrusage: that counts what the starting process took before exec.
    peak = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
    sys.stdout.write(json.dumps({"value": value, "peak": peak}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
