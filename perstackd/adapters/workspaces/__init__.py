"""Workspaces on a Linux host: found by descriptor, attached to running sandboxes as idmapped bind mounts."""
