"""Secrets at rest: authenticated encryption under a key that the operator holds."""
