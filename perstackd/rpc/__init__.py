"""gRPC: thin servicers, one a noun, and the link into each sandbox. Protobuf stops at convert.py and
runner_convert.py.
"""
