"""Runs that lie in a home, written by a test: what datasets are made of."""

from pathlib import Path

import msgspec

from tickerml.kernel import Message, Side, Trade, codec, topics
from tickerml.kernel.journal import JournalWriter
from tickerml.kernel.runs import RUN_KEY, Run

DAY = 24 * 3600 * 10**9
NOW = 1_000 * DAY


def trade(ts: int, ts_event: int | None = None, price: int = 100) -> Trade:
    """Return a trade that arrived at *ts*, and happened then unless told otherwise."""
    return Trade(ts, ts if ts_event is None else ts_event, "test", "BTC/USDT", 1, price, 1, Side.BUY)


def write_run(home: Path, name: str, started_ns: int, *messages: Message) -> Path:
    """Write the journal of the run *name* ("pi/0001"); returns its directory."""
    path = home / "runs" / name
    path.mkdir(parents=True)
    frames = []
    for seq, message in enumerate(messages, 1):
        topic = topics.topic_of(message)
        pushed = codec.pack_output(topic, 1, 1, 0, seq, codec.encode(message))
        frames.append(codec.stamp(pushed, len(topic) + 1, seq, seq))
    writer = JournalWriter(path / "journal", map_mb=16, commit_ms=1)
    run = Run(profile="pi", number=1, fingerprint="", started_ns=started_ns)
    writer.put_meta(RUN_KEY, msgspec.msgpack.encode(run))
    writer.start()
    writer.append(frames, [], [])
    writer.close()
    assert writer.error is None
    return path
