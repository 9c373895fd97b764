"""What every sealer promises, held by the fake and by AES-GCM."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perstackd.adapters.secrets.sealer import AesSealer
from perstackd.domain.errors import Kind, PerstackError
from perstackd.ports.secrets import Sealer
from tests.fakes.secrets import FakeSealer

SECRET = b"sk-very-secret-value"

MAKERS: dict[str, Callable[[int], Sealer]] = {
    "fake": lambda number: FakeSealer(f"key {number}"),
    "aes": lambda number: AesSealer(bytes([number]) * 32),
}


@pytest.fixture(params=list(MAKERS))
def make(request: pytest.FixtureRequest) -> Callable[[int], Sealer]:
    return MAKERS[request.param]


def refusal(sealer: Sealer, sealed: bytes, context: str = "job:1") -> PerstackError:
    with pytest.raises(PerstackError) as caught:
        sealer.open(sealed, context)
    error = caught.value
    assert (error.kind, error.reason) == (Kind.PRECONDITION, "seal_broken")
    assert SECRET.decode() not in f"{error!r} {error} {error.message} {error.fields}"
    return error


def test_what_was_sealed_opens_again(make: Callable[[int], Sealer]) -> None:
    @settings(max_examples=50, deadline=None)
    @given(st.binary(max_size=200), st.text(max_size=40).filter(lambda text: text.isprintable()))
    def opens(plain: bytes, context: str) -> None:
        assert make(1).open(make(1).seal(plain, context), context) == plain

    opens()


def test_the_sealed_bytes_do_not_hold_the_plain_ones(make: Callable[[int], Sealer]) -> None:
    assert SECRET not in make(1).seal(SECRET, "job:1")


def test_sealing_twice_gives_different_bytes(make: Callable[[int], Sealer]) -> None:
    sealer = make(1)
    assert sealer.seal(SECRET, "job:1") != sealer.seal(SECRET, "job:1")


def test_another_context_is_refused(make: Callable[[int], Sealer]) -> None:
    error = refusal(make(1), make(1).seal(SECRET, "job:1"), "job:2")
    assert "job:2" in error.message


def test_another_key_is_refused_and_both_keys_are_named(make: Callable[[int], Sealer]) -> None:
    sealed = make(2).seal(SECRET, "job:1")
    ids = {part.strip(",;") for part in refusal(make(1), sealed).message.split() if len(part.strip(",;")) == 16}
    assert len(ids) == 2


def test_every_changed_bit_is_refused(make: Callable[[int], Sealer]) -> None:
    sealed = make(1).seal(SECRET, "job:1")
    for place in range(len(sealed) * 8):
        changed = bytearray(sealed)
        changed[place // 8] ^= 1 << place % 8
        refusal(make(1), bytes(changed))


def test_every_cut_is_refused(make: Callable[[int], Sealer]) -> None:
    sealed = make(1).seal(SECRET, "job:1")
    for length in range(len(sealed)):
        refusal(make(1), sealed[:length])
    refusal(make(1), sealed + b"\0")
