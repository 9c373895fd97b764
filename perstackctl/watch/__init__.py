"""One stream of events, several displays: `trace` folds it, the painters show it."""
