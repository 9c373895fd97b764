"""Installed as /opt/perstack/lib/__main__.py: running the directory puts it, alone, before the standard library."""

import runpy

runpy.run_module("perstack_runner", run_name="__main__", alter_sys=True)
