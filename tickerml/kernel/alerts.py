"""
What people are told of: a message that matters, as one line and a severity.

An alert is a function of its message and of what the instrument says, and so is its
key: every sink is told the same, live and in a replay.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from . import messages as m
from .enums import Severity
from .units import format_units

Instruments = Mapping[tuple[str, str], m.Instrument]

_VITAL = ("gate", "risk_rule", "simulator")  # kinds of which one that fails halts trading
_ASKED = (m.STOPPED, m.REMOVED)  # the reasons of an end that somebody asked for


class Alert(msgspec.Struct, frozen=True):
    """
    Something a person should know.

    ts is when it happened, ns UTC. key names what it is about ("feed/binance"), for grouping what
    belongs together; title is one line, and text the rest where there is more to say.
    """

    ts: int
    severity: Severity
    key: str
    title: str
    text: str = ""


def alert_of(message: m.Message, instruments: Instruments) -> Alert | None:
    """
    Return what people should be told because of *message*; None where that is nothing.

    Args:
        instruments: by (exchange, symbol), to say prices and quantities as people do.
    """
    told = _TOLD[type(message)](message, instruments) if type(message) in _TOLD else None
    return Alert(message.ts_recv, *told) if told else None


# Each returns (severity, key, title[, text]), or nothing to tell.
_Told = tuple[Severity, str, str] | tuple[Severity, str, str, str] | None


def _halted(halt: m.TradingHalted, _: Instruments) -> _Told:
    return Severity.CRITICAL, "trading", f"trading is halted by {halt.source}", halt.reason


def _resumed(resumed: m.TradingResumed, _: Instruments) -> _Told:
    return Severity.INFO, "trading", f"trading is active again, by {resumed.source}", resumed.reason


def _failed(failure: m.PluginFailed, _: Instruments) -> _Told:
    severity = Severity.CRITICAL if failure.kind in _VITAL else Severity.ERROR
    title = f"plugin {failure.plugin} failed at {failure.stage} and was set aside"
    return severity, f"plugin/{failure.plugin}", title, failure.error


def _host_stopped(stopped: m.HostStopped, _: Instruments) -> _Told:
    key = f"host/{stopped.host}"
    if stopped.reason in _ASKED:
        return None
    if stopped.restart_in_ms < 0:
        return Severity.CRITICAL, key, f"host {stopped.host} is quarantined", stopped.reason
    title = f"host {stopped.host} died and is restarted in {stopped.restart_in_ms / 1000:g} s"
    return Severity.WARNING, key, title, stopped.reason


def _feed_lost(lost: m.FeedLost, _: Instruments) -> _Told:
    return Severity.WARNING, f"feed/{lost.exchange}", f"the feed of {lost.exchange} is lost", lost.reason


def _feed_connected(feed: m.FeedConnected, _: Instruments) -> _Told:
    return Severity.INFO, f"feed/{feed.exchange}", f"the feed of {feed.exchange} is up"


def _channel_lost(lost: m.ChannelLost, _: Instruments) -> _Told:
    title = f"the {lost.channel} channel of {lost.symbol} on {lost.exchange} is lost"
    return Severity.WARNING, f"channel/{lost.exchange}/{lost.symbol}/{lost.channel}", title, lost.reason


def _channel_resumed(back: m.ChannelResumed, _: Instruments) -> _Told:
    title = f"the {back.channel} channel of {back.symbol} on {back.exchange} is back"
    key = f"channel/{back.exchange}/{back.symbol}/{back.channel}"
    return Severity.INFO, key, title, f"after {back.silent_ms / 1000:,.1f} s"


def _gap(gap: m.SequenceGap, _: Instruments) -> _Told:
    title = f"{gap.symbol} on {gap.exchange} skipped an update"
    text = f"expected {gap.expected}, was {gap.was}; its book is not used until the next snapshot"
    return Severity.WARNING, f"book/{gap.exchange}/{gap.symbol}", title, text


def _checksum(failed: m.ChecksumFailed, _: Instruments) -> _Told:
    title = f"the book of {failed.symbol} on {failed.exchange} is not the exchange's"
    text = f"its checksum is {failed.expected}, ours was {failed.was}; not used until the next snapshot"
    return Severity.WARNING, f"book/{failed.exchange}/{failed.symbol}", title, text


def _stale(stale: m.BookStale, _: Instruments) -> _Told:
    if not stale.silent_ms:
        return None  # its source's process has ended, which is told where it matters
    title = f"the book of {stale.symbol} on {stale.exchange} has gone silent"
    return Severity.WARNING, f"book/{stale.exchange}/{stale.symbol}", title


def _anomaly(found: m.DataAnomaly, _: Instruments) -> _Told:
    what = f"{found.symbol} on {found.exchange}" if found.symbol else f"the feed of {found.exchange}"
    key = f"data/{found.exchange}/{found.symbol}/{found.kind}"
    return found.severity, key, f"{what}: {found.text}", f"seen {found.count} times in this run"


def _filled(fill: m.OrderFilled, instruments: Instruments) -> _Told:
    price, quantity = _scaled(fill, instruments)
    verb = "bought" if fill.side is m.Side.BUY else "sold"
    title = f"{fill.strategy} {verb} {quantity} at {price} on {fill.exchange}"
    return Severity.INFO, f"order/{fill.order_id}/{fill.fill}", title


def _scaled(event: m.OrderFilled | m.PositionLiquidated, instruments: Instruments) -> tuple[str, str]:
    # Its price and its quantity; in ticks and lots where nobody has said what they are.
    if not (instrument := instruments.get((event.exchange, event.symbol))):
        return f"{event.price} ticks", f"{event.quantity} lots of {event.symbol}"
    price, quantity = instrument.price_text(event.price), instrument.quantity_text(event.quantity)
    return f"{price} {instrument.quote}", f"{quantity} {instrument.base}"


def _liquidated(gone: m.PositionLiquidated, instruments: Instruments) -> _Told:
    title = f"{gone.exchange} liquidated {gone.symbol} of account {gone.account}"
    lost, fee = (format_units(units) for units in (gone.realized, gone.fee))
    price, quantity = _scaled(gone, instruments)
    text = f"{quantity} at {price}: {lost} {gone.asset}, and a fee of {fee}"
    return Severity.CRITICAL, f"liquidation/{gone.account}/{gone.exchange}/{gone.symbol}", title, text


def _rejected(order: m.OrderRejected, _: Instruments) -> _Told:
    title = f"{order.exchange} rejected an order in {order.symbol}"
    return Severity.WARNING, f"order/{order.order_id}", title, order.reason


def _swap_ended(swap: m.SwapEnded, _: Instruments) -> _Told:
    key = f"swap/{swap.host}"
    if swap.outcome == "permanent":
        return Severity.INFO, key, f"the change of host {swap.host} is permanent", swap.reason
    title = f"the change of host {swap.host} was rolled back at {swap.step}"
    return Severity.ERROR, key, title, swap.reason


def _kernel_started(kernel: m.KernelStarted, _: Instruments) -> _Told:
    title = f"the kernel started with profile {kernel.profile}, session {kernel.session}"
    return Severity.INFO, "kernel", title


def _kernel_stopped(kernel: m.KernelStopped, _: Instruments) -> _Told:
    return Severity.INFO, "kernel", "the kernel stopped", kernel.reason


def _model_trained(model: m.ModelTrained, _: Instruments) -> _Told:
    figures = ", ".join(f"{name} {value:g}" for name, value in sorted(model.metrics.items()))
    return Severity.INFO, f"model/{model.trainer}", f"{model.trainer} has trained {model.path}", figures


_TOLD: dict[type[m.Message], Callable[[Any, Instruments], _Told]] = {
    m.TradingHalted: _halted,
    m.TradingResumed: _resumed,
    m.PluginFailed: _failed,
    m.HostStopped: _host_stopped,
    m.FeedLost: _feed_lost,
    m.FeedConnected: _feed_connected,
    m.ChannelLost: _channel_lost,
    m.ChannelResumed: _channel_resumed,
    m.SequenceGap: _gap,
    m.ChecksumFailed: _checksum,
    m.BookStale: _stale,
    m.DataAnomaly: _anomaly,
    m.OrderFilled: _filled,
    m.OrderRejected: _rejected,
    m.PositionLiquidated: _liquidated,
    m.SwapEnded: _swap_ended,
    m.KernelStarted: _kernel_started,
    m.KernelStopped: _kernel_stopped,
    m.ModelTrained: _model_trained,
}

#: The message types that may be worth an alert.
ALERTING = tuple(_TOLD)
