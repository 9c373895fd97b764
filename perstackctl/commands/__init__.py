"""One module per command or group; each is imported when it is used."""
