"""At what temperature water boils."""


def boiling_point(metres: float) -> float:
    """Degrees Celsius; a good approximation up to 4,000 m."""
    return 100.0 - metres / 300.0
