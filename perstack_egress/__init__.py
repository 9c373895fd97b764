"""perstack-egress: the allow-listing CONNECT proxy of the sandboxes."""
