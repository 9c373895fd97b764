"""Programs that a definition carries: the text in quotes after `"-c",` is a server that lies beside the perstack.toml.

`make conversations` writes them anew; a test sees that they are the same.
"""

import re
from pathlib import Path
from typing import Final

_PLACE: Final = re.compile(r"(?<=args = \[\"-I\", \"-c\", '''\n).*?(?='''\])", re.DOTALL)


def carried(definition: str) -> str:
    """The program in a definition; empty when it carries none."""
    found = _PLACE.search(definition)
    return found[0] if found else ""


def embed(example: Path) -> None:
    """Write the example's server, when it has one, into its perstack.toml.

    Raises:
        ValueError: the server's text cannot stand in a literal string of TOML.
    """
    definition = example / "perstack.toml"
    for server in example.glob("*_server.py"):
        program = server.read_text(encoding="utf-8")
        if "'''" in program:
            raise ValueError(
                f"{server} holds three single quotes, which end a literal string of TOML; write it without"
            )
        before, after = _PLACE.split(definition.read_text(encoding="utf-8"), maxsplit=1)
        definition.write_text(f"{before}{program}{after}", encoding="utf-8")
