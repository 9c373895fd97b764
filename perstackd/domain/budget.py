"""What all runs of a job together may use, and what they have used."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Budgets:
    """Limits of a job; 0 means none. Wall clock in milliseconds from the job's creation, without pauses and waits for
    people; tokens are input and output; money is in millionths of a US dollar.
    """

    max_steps: int = 0
    wall_clock_ms: int = 0
    tokens: int = 0
    microdollars: int = 0
    tool_calls: int = 0

    def over(self, operator: "Budgets") -> "Budgets":
        """These, and the operator's where they say nothing."""
        return Budgets(
            self.max_steps or operator.max_steps,
            self.wall_clock_ms or operator.wall_clock_ms,
            self.tokens or operator.tokens,
            self.microdollars or operator.microdollars,
            self.tool_calls or operator.tool_calls,
        )


@dataclass(frozen=True, slots=True)
class Tally:
    """What the whole job has used and may use, all its runs together. While it is `paused` nothing is generated."""

    steps: int = 0
    tokens: int = 0
    microdollars: int = 0
    tool_calls: int = 0
    budgets: Budgets = Budgets()
    paused: bool = False

    def plus(self, tokens: int, microdollars: int, tool_calls: int = 0) -> "Tally":
        """With what was used and is not in the record yet."""
        spent, calls = self.microdollars + microdollars, self.tool_calls + tool_calls
        return replace(self, tokens=self.tokens + tokens, microdollars=spent, tool_calls=calls)

    def exceeded(self) -> tuple[str, int] | None:
        """The first limit that is reached, steps excepted: its name and its figure."""
        budgets = self.budgets
        limits = (
            ("tokens", self.tokens, budgets.tokens),
            ("money", self.microdollars, budgets.microdollars),
            ("toolCalls", self.tool_calls, budgets.tool_calls),
        )
        return next(((name, limit) for name, used, limit in limits if limit and used >= limit), None)


def reached(budget: str, limit: int) -> str:
    """What a job that a limit stopped is told, as in "the job's limit of 200,000 tokens is reached"."""
    match budget:
        case "wallClock":
            figure = f"{limit / 1000:,.1f} s".replace(".0 s", " s")
        case "money":
            figure = f"{limit / 1_000_000:,.6f}".rstrip("0").rstrip(".") + " US dollars"
        case "toolCalls":
            figure = f"{limit:,} tool calls"
        case _:
            figure = f"{limit:,} {budget}"
    return f"the job's limit of {figure} is reached"
