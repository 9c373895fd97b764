"""Looks at the machine that perstackd shall run on, or runs on: nothing is changed, and no lock is taken."""
