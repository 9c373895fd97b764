"""Pure values and decisions: no await, clock, randomness, logger or input/output. Imports nothing of the other
layers.
"""
