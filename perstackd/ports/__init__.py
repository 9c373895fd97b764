"""Protocols between the use cases and the world. Each has a contract suite in tests/contracts that every adapter
and every fake passes.
"""
