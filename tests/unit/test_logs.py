"""The daemon's log, as a process writes it: one JSON object a line, without the values that it was given."""

import json
import subprocess
import sys

PROGRAM = """
import logging, structlog
from perstackd.adapters.logs import configure
from perstackd.app.scrubbing import Scrubber, Scrubbing
scrubbing = Scrubbing()
configure("info", scrubbing.text)
job = Scrubber({"TOKEN": 'tok"en-1234567890'})
scrubbing.watch(job)
scrubbing.own.learn({"anthropic-key": "sk-ant-123456"})
structlog.get_logger().info("began", error='with tok"en-1234567890', more=["sk-ant-123456"])
logging.getLogger("library").warning("said %s", {"key": 'tok"en-1234567890'})
try:
    raise ValueError('tok"en-1234567890')
except ValueError:
    logging.getLogger("library").exception("failed")
"""


def test_no_line_keeps_a_value_and_each_is_still_json() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"] for line in lines[::2]] == ["began", "failed"]
    assert (lines[0]["error"], lines[0]["more"]) == ("with [secret TOKEN]", ["[secret anthropic-key]"])
    assert "1234567890" not in done.stderr
    assert "sk-ant" not in done.stderr
    assert done.stderr.count("[secret TOKEN]") >= 3
