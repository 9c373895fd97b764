"""The Docker engine behind the sandboxes port: what is asked of it, how, and what the kernel says came of it."""
