# /// tickerml-plugin
# format = 1
# [plugin.sink-webhook]
# kinds = ["sink"]
# api = ">=1.0,<2"
# summary = "posts alerts to an address as JSON"
# publishes = ["AlertSent"]
# network = ["example.org"]
# secrets = ["webhook-token"]
# tier = "edge"
# ///
"""
Webhook: a sink that posts each alert to an address, as JSON.

emit() returns when the alert was taken, and raises when it was not: then the sink is set aside, with
that reason. The host waits for it meanwhile, so it has a host of its own and a short timeout.
"""

import urllib.request
from typing import Annotated

import msgspec

from tickerml.kernel import Alert, Context, Options, Severity, SinkSpec, StateRefused, hookimpl


class WebhookOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where to, and from which severity on."""

    url: Annotated[
        str, msgspec.Meta(pattern="^(https?://.+)?$", description="address; empty logs alerts instead")
    ] = ""
    min_severity: Annotated[
        Severity, msgspec.Meta(description="the least that is sent: info, warning, error or critical")
    ] = Severity.WARNING
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=60, description="how long an answer may take, s")] = 5.0


class WebhookSink:
    """Remembers nothing; the bus knows what was sent."""

    def __init__(self, ctx: Context, options: WebhookOptions) -> None:
        self.min_severity = options.min_severity
        self._ctx = ctx
        self._options = options
        self._headers = {"Content-Type": "application/json"}
        if options.url:
            self._headers["Authorization"] = f"Bearer {ctx.secret('webhook-token')}"

    def emit(self, alert: Alert) -> None:
        """
        Post *alert*.

        Raises: OSError: it was not taken.
        """
        if not self._options.url:
            self._ctx.log.info("alert.shown", severity=alert.severity.value, key=alert.key, title=alert.title)
            return
        request = urllib.request.Request(self._options.url, msgspec.json.encode(alert), self._headers)
        with urllib.request.urlopen(request, timeout=self._options.timeout_s):
            pass

    def snapshot(self) -> bytes:
        return b""

    def restore(self, state: bytes) -> None:
        if state:
            raise StateRefused(self._ctx.plugin, f"expected no state, was {len(state)} bytes")


@hookimpl
def tickerml_sinks() -> list[SinkSpec]:
    return [
        SinkSpec(
            id="sink-webhook",
            factory=WebhookSink,
            options=WebhookOptions,
            summary="posts alerts to an address as JSON",
        )
    ]
