"""What a job that a limit stopped is told."""

import pytest

from perstackd.domain.budget import reached


@pytest.mark.parametrize(
    ("budget", "limit", "figure"),
    [
        ("wallClock", 2_000, "2 s"),
        ("wallClock", 90_500, "90.5 s"),
        ("tokens", 200_000, "200,000 tokens"),
        ("money", 500_000, "0.5 US dollars"),
        ("money", 3_000_000, "3 US dollars"),
        ("money", 10, "0.00001 US dollars"),
        ("toolCalls", 2, "2 tool calls"),
    ],
)
def test_a_limit_is_told_in_the_unit_that_people_gave_it_in(budget: str, limit: int, figure: str) -> None:
    assert reached(budget, limit) == f"the job's limit of {figure} is reached"
