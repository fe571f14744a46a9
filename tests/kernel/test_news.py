"""A news source in its host: a live feed, whose items are given once."""

import asyncio

import msgspec
import pytest

from tickerml.kernel import FeedConnected, FeedSummarized, NewsItem, codec, control
from tickerml.kernel.journal import Checkpoint
from tickerml.kernel.source import Source

from .wires import PLUGINS, ListJournal, ListWires, admitted, planned, welcome

TINY = "tiny-news"


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    monkeypatch.syspath_prepend(PLUGINS)


def news(wires, **options):
    plugin = planned(TINY, "news_source", "tiny_news", every_ms=0, **options)
    machine = Source("news", wires, welcome(plugin, checkpoint_s=10))
    machine.begin()
    machine.on_control(admitted(TINY))
    machine.on_control(control.Start())
    return machine


def read(machine, count):
    """Give *machine* the first *count* of what its feed yields, as its process does."""

    async def reading():
        stream = machine.feeds[TINY].stream()
        for _ in range(count):
            machine.fed(TINY, await anext(stream))

    asyncio.run(reading())


def outputs(wires):
    frames = [raw for raw in wires.take() if not raw.startswith(b"\0")]
    return [codec.decode(raw[codec.split_output(raw)[1] + codec.NAME.size :]) for raw in frames]


def test_news_goes_onto_the_bus_as_it_comes():
    wires = ListWires()
    wires.now = 1_000

    read(news(wires), 3)

    connected, *items = outputs(wires)
    assert isinstance(connected, FeedConnected)
    assert [(each.source, each.id, each.title) for each in items] == [
        ("tiny-wire", "1", "item 1"),
        ("tiny-wire", "2", "item 2"),
    ]
    assert all(isinstance(each, NewsItem) and each.ts_recv >= 1_000 for each in items)


def test_after_a_restart_no_item_is_given_again():
    wires = ListWires()
    stopping = news(wires)
    read(stopping, 3)
    stopping.on_control(control.Stop())
    stopping.advance()
    note = wires.notes(control.CHECKPOINT, control.HostCheckpoint)[-1]
    last = outputs(wires)[-1]
    assert (type(last), last.exchange) == (FeedSummarized, "tiny-wire")
    assert msgspec.msgpack.decode(note.state, type=control.HostState).causes == {TINY: 3}

    again = ListWires(ListJournal())
    again.journal.written = [Checkpoint(note.host, note.position, note.state)]
    read(news(again), 2)

    assert [each.id for each in outputs(again) if isinstance(each, NewsItem)] == ["3"]
