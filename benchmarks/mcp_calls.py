"""Calls of a server's tool by the MCP SDK alone: what a relayed call is compared with. Given to `python3 -c` in a plain
container of the sandboxes' image, so it imports nothing of the product. Prints milliseconds, a JSON list.
"""

import asyncio
import json
import sys
import time
from typing import Final

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

SERVER: Final = StdioServerParameters(command="mcp-server-time", args=["--local-timezone", "UTC"])
TOOL: Final = "get_current_time"
PAUSE_SECONDS: Final = 0.005
"""Between calls, about as long as between two of a run whose model answers at once: processes that wait wake slower."""


async def calls(count: int) -> list[float]:
    """How long each took, in milliseconds."""
    taken: list[float] = []
    async with stdio_client(SERVER) as (read, write), ClientSession(read, write) as session:
        await session.initialize()
        for _ in range(count):
            await asyncio.sleep(PAUSE_SECONDS)
            began = time.perf_counter()
            await session.call_tool(TOOL, {"timezone": "UTC"})
            taken.append((time.perf_counter() - began) * 1000)
    return taken


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(calls(int(sys.argv[1])))))
