"""Questions of a job: which one is meant, how it is shown and asked on a terminal, what an answer is."""
