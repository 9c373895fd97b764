"""perstack-runner: the program inside a sandbox."""
