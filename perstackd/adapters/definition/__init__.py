"""Definitions: perstack.toml into values, with everything that is wrong in it at its place."""
