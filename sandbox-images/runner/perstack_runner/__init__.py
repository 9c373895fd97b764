"""The program inside a sandbox: drives the loop of one run, its base tools and skills. Holds no history and no key."""

VERSION = "0.1.0"
PROTOCOL_VERSION = 1
