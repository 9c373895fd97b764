"""Logs: one JSON object a line on standard error, from structlog and from libraries that use the standard module
alike.
"""

import logging
import sys
from collections.abc import Callable

import structlog

_NOISY = ("docker", "grpc", "urllib3", "httpx", "httpcore", "httpx2", "httpcore2", "anthropic", "openai", "asyncio")


def configure(level: str, scrub: Callable[[str], str]) -> None:
    """Set up both. Values that hold secrets are left out of every repr; should one get here nevertheless, as in what a
    library says, `scrub` takes it out of the whole line.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),
                lambda _logger, _name, line: scrub(str(line)),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(number)
    for noisy in _NOISY:
        logging.getLogger(noisy).setLevel(max(number, logging.WARNING))
