#!/usr/bin/env bash
# Writes the Python code of proto/perstack/v1 beside the .proto files.
# Usage: proto/generate.sh [OUT]   OUT defaults to proto/ itself.
set -euo pipefail
cd "$(dirname "$0")"
out="${1:-.}"
python=../.venv/bin/python
mkdir -p "$out"
PATH="$PWD/../.venv/bin:$PATH" "$python" -m grpc_tools.protoc -I . \
  --python_out="$out" --grpc_python_out="$out" --mypy_out="$out" --mypy_grpc_out="$out" \
  perstack/v1/*.proto
