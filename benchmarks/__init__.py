"""Reports on what perstackd promises: `python -m benchmarks GROUP`. One module a group, targets in `targets`.

Everything is measured on a real engine and on a daemon in a process of its own, over its admin socket; only the model
is a script, which answers at once. Nothing here is a test: a missed target is a line of the report.
"""
