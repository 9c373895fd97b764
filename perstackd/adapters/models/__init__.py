"""Models: the providers, and recorded conversations that stand in for them."""
