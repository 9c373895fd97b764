"""Reading a job's log afterwards: which events, how each is written, what they add up to, the tree of its runs."""
