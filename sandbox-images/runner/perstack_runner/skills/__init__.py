"""MCP servers of skills. Imports the MCP SDK, which costs 60 MiB: import it only when a skill is assigned."""
