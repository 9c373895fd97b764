"""What a job request is made of, read on the caller's machine: definition, query, workspace, values of requiredEnv."""
