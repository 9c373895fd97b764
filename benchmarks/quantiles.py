"""Statistics over measured values: nearest rank, no interpolation, so that each figure was really seen."""

from collections.abc import Sequence
from math import ceil


def quantile(values: Sequence[float], q: float) -> float:
    """The smallest value that at least `q` of all values do not exceed. Raises ValueError without values."""
    if not values:
        raise ValueError("there is no quantile of no values")
    return sorted(values)[max(0, ceil(q * len(values)) - 1)]


def median(values: Sequence[float]) -> float:
    """The 0.5 quantile."""
    return quantile(values, 0.5)


def spread(values: Sequence[float]) -> dict[str, float | int]:
    """What a report shows beside a figure."""
    return {
        "n": len(values),
        "min": round(min(values), 3),
        "p50": round(median(values), 3),
        "p99": round(quantile(values, 0.99), 3),
        "max": round(max(values), 3),
    }
