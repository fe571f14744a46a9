"""
Logging, set up in one place: JSON lines where a program reads, colours where a person does.

Events are area.verb_in_past with the facts as keys. Hosts write to stderr, which the
kernel collects into HOME/logs and shows to the console.
"""

import logging
import sys

import structlog


def configure(*, as_json: bool | None = None, level: int = logging.INFO) -> None:
    """
    Send structlog's events to stderr.

    Args:
        as_json: one JSON object a line; by default unless stderr is a terminal.
    """
    if as_json is None:
        as_json = not sys.stderr.isatty()
    renderer = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer()
    processors: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if as_json:
        processors.append(structlog.processors.format_exc_info)
    structlog.configure(
        processors=[*processors, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
