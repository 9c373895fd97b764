"""Whatever reads bytes of strangers, fed with bytes of strangers."""
