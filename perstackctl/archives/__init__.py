"""Tar archives of workspaces on the caller's side: directories packed, archives unpacked."""
