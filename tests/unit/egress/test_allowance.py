"""How many bytes may pass: counted before they do."""

import pytest

from perstack_egress.allowance import Allowance, Meter, Spent, sandbox_allowance


def test_exactly_the_limit_passes_and_not_a_byte_more() -> None:
    allowance = sandbox_allowance(10)
    allowance.take(6)
    allowance.take(4)
    with pytest.raises(Spent, match="moved the 10 bytes"):
        allowance.take(1)


def test_what_does_not_fit_does_not_pass_in_part_and_the_allowance_stays_spent() -> None:
    allowance = sandbox_allowance(10)
    allowance.check()
    with pytest.raises(Spent):
        allowance.take(11)
    for try_again in (allowance.check, lambda: allowance.take(1)):
        with pytest.raises(Spent):
            try_again()


def test_no_limit_is_no_limit() -> None:
    allowance = sandbox_allowance(0)
    allowance.take(1 << 50)
    allowance.check()


def test_what_an_earlier_process_counted_counts() -> None:
    with pytest.raises(Spent, match="GiB"):
        sandbox_allowance(1 << 30, used=1 << 30).check()


def test_a_meter_counts_what_passed_for_itself_and_for_the_sandbox() -> None:
    sandbox = sandbox_allowance(100)
    first, second = Meter(10, sandbox), Meter(0, sandbox)
    first.up(4)
    first.down(6)
    second.up(80)
    assert (first.counts.up, first.counts.down, second.counts.up, sandbox.used) == (4, 6, 80, 90)
    with pytest.raises(Spent) as own:
        first.down(1)
    with pytest.raises(Spent) as shared:
        second.down(11)
    assert (own.value.reason, shared.value.reason) == ("tunnel_bytes_exceeded", "sandbox_bytes_exceeded")
    assert first.counts.down == 6


def test_the_detail_is_in_the_largest_whole_unit() -> None:
    for limit, text in ((1 << 30, "1 GiB"), (3 << 20, "3 MiB"), (5 << 10, "5 KiB"), (1025, "1025 bytes")):
        with pytest.raises(Spent, match=text):
            Allowance(limit, "tunnel_bytes_exceeded", "it").take(limit + 1)
