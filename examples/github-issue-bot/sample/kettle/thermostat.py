"""When to switch the kettle off."""

BOILING_POINT = 100.0
TOLERANCE = 0.5


class Thermostat:
    """Told the temperature once a second."""

    def __init__(self) -> None:
        self.on = True

    def measured(self, celsius: float) -> None:
        """Switch off when the water boils."""
        if celsius >= BOILING_POINT - TOLERANCE:
            self.on = False
