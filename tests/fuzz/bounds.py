"""How long it is fuzzed and where chance begins, from the environment; and `fuzz`, which every test here begins with.

PERSTACK_FUZZ_EXAMPLES   inputs for each test (default 150: all of them stay below a minute); 100000 for a night
PERSTACK_FUZZ_SEED       where chance begins; the summary prints the seed of each run, and the same one finds the same
"""

import os
import secrets
import time
from collections.abc import Callable
from functools import wraps
from typing import Any, Final

from hypothesis import HealthCheck, given, seed, settings
from hypothesis.strategies import SearchStrategy

EXAMPLES: Final = int(os.environ.get("PERSTACK_FUZZ_EXAMPLES", "150"))
SEED: Final = int(os.environ.get("PERSTACK_FUZZ_SEED") or secrets.randbits(32))
SECONDS_FOR_ONE: Final = 3.0
"""Of the processor, for one input: what takes longer can be made to take as long as one likes."""

Test = Callable[..., None]


def fuzz(*strategies: SearchStrategy[Any], part: float = 1.0) -> Callable[[Test], Test]:
    """Run the test for many values of the strategies; `part` of the usual number for those that are dear."""
    bounded = settings(
        max_examples=max(10, int(EXAMPLES * part)),
        deadline=None,  # that would be the clock's, and a busy machine's fault
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )

    def decorated(test: Test) -> Test:
        @wraps(test)
        def timed(*values: Any, **named: Any) -> None:
            began = time.process_time()
            test(*values, **named)
            assert time.process_time() - began < SECONDS_FOR_ONE, "this input takes too long"

        return seed(SEED)(bounded(given(*strategies)(timed)))

    return decorated
