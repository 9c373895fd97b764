"""gRPC: thin servicers, one a noun; and the link into each sandbox, which is not gRPC. Protobuf stops at convert.py and
runner_convert.py.
"""
