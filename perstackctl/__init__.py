"""perstackctl: the command line client of perstackd, and its typed client library."""
