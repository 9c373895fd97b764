"""The egress port over perstack-egress, a process of its own."""

from perstackd.adapters.egress.program import ProgramOptions
from perstackd.adapters.egress.proxy import EgressProxy

__all__ = ["EgressProxy", "ProgramOptions"]
