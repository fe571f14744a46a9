"""What `tickerml exchange serve` runs and prints."""

import time
from pathlib import Path

from tickerml.testing.exchanges import EXCHANGES, ExchangeServer, Playback, read


def build(
    exchanges: list[str], symbols: list[str], levels: int, seed: int, captures: list[str]
) -> ExchangeServer:
    """
    Return a server of *exchanges* (all where none is named) and of recordings.

    Args:
        captures: "EXCHANGE=FILE"; several files of one exchange are played as one.
    Raises: ValueError: an exchange there is not, or a capture that is not so written. OSError: a
        file that cannot be read.
    """
    files: dict[str, list[Path]] = {}
    for text in captures:
        name, is_one, path = text.partition("=")
        if not is_one or name not in EXCHANGES:
            known = ", ".join(EXCHANGES)
            raise ValueError(f"expected a capture as EXCHANGE=FILE, EXCHANGE of {known}, was {text!r}")
        files.setdefault(name, []).append(Path(path))
    playbacks = {
        name: Playback(name, [line for path in paths for line in read(path)], time.time_ns)
        for name, paths in files.items()
    }
    return ExchangeServer(*exchanges, seed=seed, symbols=symbols, levels=levels, captures=playbacks)


async def serve(server: ExchangeServer, host: str, port: int, rate: float, speed: float) -> None:
    """Serve until interrupted; prints where. Raises: OSError: the port is taken."""
    async with server.serving(host, port):
        for name in server.wires:
            print(f"{name:<14} rest_url={server.rest_url(name)}  ws_url={server.ws_url(name)}")
        print(f"faults: curl -X POST http://{server.address}/_faults/NAME", flush=True)
        await server.run(rate, speed)
