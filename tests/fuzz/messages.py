"""Protobuf messages of any kind, filled with anything that their fields can hold; and bytes that nearly are one."""

from typing import Any, TypeVar

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st

M = TypeVar("M", bound=Message)

_DEPTH = 4
_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: st.integers(0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_ENUM: st.integers(-1, 12),
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
    FieldDescriptor.CPPTYPE_DOUBLE: st.floats(),
    FieldDescriptor.CPPTYPE_FLOAT: st.floats(width=32),
}
_JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=4)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
"""What a string field can hold."""


@st.composite
def filled(draw: st.DrawFn, cls: type[M]) -> M:
    """A message with any of its fields set."""
    message = cls()
    _fill(draw, message, _DEPTH)
    return message


@st.composite
def nearly(draw: st.DrawFn, cls: type[Message]) -> bytes:
    """Bytes of a message with some of them changed, cut or added; or any bytes."""
    data = bytearray(draw(filled(cls)).SerializeToString())
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["change", "cut", "add"])):
            case "change" if at < len(data):
                data[at] = draw(st.integers(0, 255))
            case "cut":
                del data[at:]
            case _:
                data[at:at] = draw(st.binary(max_size=8))
    return bytes(data)


def _fill(draw: st.DrawFn, message: Any, depth: int) -> None:
    descriptor: Descriptor = message.DESCRIPTOR
    chosen = draw(st.lists(st.sampled_from(tuple(descriptor.fields)), max_size=5)) if descriptor.fields else []
    for field in chosen:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            continue
        if field.message_type is not None:
            _fill_message(draw, message, field, depth)
        elif field.is_repeated:
            getattr(message, field.name).extend(draw(st.lists(_scalar(field), max_size=3)))
        else:
            setattr(message, field.name, draw(_scalar(field)))


def _fill_message(draw: st.DrawFn, message: Any, field: FieldDescriptor, depth: int) -> None:
    if depth == 0:
        return
    if field.is_repeated:
        for _ in range(draw(st.integers(0, 3))):
            _fill(draw, getattr(message, field.name).add(), depth - 1)
    else:
        inner = getattr(message, field.name)
        inner.SetInParent()
        _fill(draw, inner, depth - 1)


def _scalar(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.binary(max_size=300) | _JSON.map(lambda value: str(value).encode())
    if field.type == FieldDescriptor.TYPE_STRING:
        return TEXT | st.sampled_from(["127.0.0.0/8", "*.example.com", "a.example", "localhost", "x" * 5000])
    return _INTEGERS[field.cpp_type]
