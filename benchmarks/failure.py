"""The one way in which a measurement fails."""


class MeasurementError(Exception):
    """There is no figure: what was measured did not do what it should. The message says what, and what to look at."""
