"""Examples, and what `make demo` and `make conversations` run."""
