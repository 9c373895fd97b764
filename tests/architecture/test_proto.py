"""The committed generated code is what the .proto files make, and the API only ever grows."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from google.protobuf import descriptor_pb2

ROOT = Path(__file__).parents[2]
SNAPSHOT = ROOT / "proto/snapshot.txt"


def test_generated_code_is_up_to_date(tmp_path: Path) -> None:
    subprocess.run([ROOT / "proto/generate.sh", tmp_path], check=True, capture_output=True, timeout=60)
    made = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*.py*")}
    assert made
    stale = [str(name) for name, text in made.items() if (ROOT / "proto" / name).read_text() != text]
    assert stale == [], "run make proto and commit what it wrote"


def test_nothing_of_the_published_api_was_changed_or_taken_away(tmp_path: Path) -> None:
    published = set(SNAPSHOT.read_text().splitlines())
    now = set(api_lines(tmp_path))
    assert published - now == set(), "these parts of the API are published and must stay as they are"
    assert now - published == set(), (
        "new parts of the API: python tests/architecture/test_proto.py adds them to the snapshot"
    )


def api_lines(scratch: Path) -> Iterator[str]:
    """One line for each thing a client can depend on."""
    out = scratch / "api.binpb"
    protos = sorted(str(path.relative_to(ROOT / "proto")) for path in (ROOT / "proto").rglob("*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", ".", f"--descriptor_set_out={out}", *protos]
    subprocess.run(command, check=True, cwd=ROOT / "proto", timeout=60)
    files = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())
    for file in files.file:
        for service in file.service:
            for method in service.method:
                kind = f"{'stream ' if method.client_streaming else ''}{method.input_type} -> "
                kind += f"{'stream ' if method.server_streaming else ''}{method.output_type}"
                yield f"rpc {file.package}.{service.name}.{method.name} {kind}"
        for enum in file.enum_type:
            yield from (f"enum {file.package}.{enum.name}.{value.name} = {value.number}" for value in enum.value)
        for message in file.message_type:
            yield from _message_lines(f"{file.package}.{message.name}", message)


def _message_lines(name: str, message: descriptor_pb2.DescriptorProto) -> Iterator[str]:
    for field in message.field:
        kind = field.type_name or descriptor_pb2.FieldDescriptorProto.Type.Name(field.type)
        label = descriptor_pb2.FieldDescriptorProto.Label.Name(field.label)
        yield f"field {name}.{field.name} = {field.number} {label} {kind}"
    for enum in message.enum_type:
        yield from (f"enum {name}.{enum.name}.{value.name} = {value.number}" for value in enum.value)
    for nested in message.nested_type:
        yield from _message_lines(f"{name}.{nested.name}", nested)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        lines = {*api_lines(Path(directory)), *(SNAPSHOT.read_text().splitlines() if SNAPSHOT.exists() else ())}
        SNAPSHOT.write_text("\n".join(sorted(lines)) + "\n")
