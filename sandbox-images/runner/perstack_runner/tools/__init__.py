"""Base tools: one file per noun. They run inside the runner, on threads; only exec and searchText start processes."""
