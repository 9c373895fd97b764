"""Adapters: the only code that knows a database, an engine, a provider or a clock. Each implements one port."""
