"""Use cases: they act through ports, hold what lives between two requests, and know no engine, wire or file format."""
