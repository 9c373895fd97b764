"""perstack-egress: the allow-listing CONNECT proxy of the sandboxes.

A program of its own, started by the daemon and told by it over one socket; bulk bytes never share the daemon's loop.
`policy`, `connect`, `clienthello`, `addresses` and `answer` are pure; the rest acts. It shares only `perstack.v1` with
the other programs.
"""
