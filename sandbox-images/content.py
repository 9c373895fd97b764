"""What an image is made of, as a hash: a part whose tag exists is not built again."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

IMAGES: Final = Path(__file__).resolve().parent
ROOT: Final = IMAGES.parent


def files_below(top: Path) -> Iterator[Path]:
    """The files of a tree that belong in an image, in a fixed order."""
    for path in sorted(top.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts and path.suffix not in {".pyc", ".pyi"}:
            yield path


def content_hash(*parts: str | Path) -> str:
    """16 hexadecimal digits over strings, files and trees: names, executable bits and contents."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            digest.update(f"text {len(part)} {part}\n".encode())
            continue
        for path in [part] if part.is_file() else files_below(part):
            data = path.read_bytes()
            name = path.relative_to(ROOT).as_posix()
            digest.update(f"file {name} {os.access(path, os.X_OK)} {len(data)}\n".encode() + data)
    return digest.hexdigest()[:16]
