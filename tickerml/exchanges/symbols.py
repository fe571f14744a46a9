"""
Names of markets: how each exchange writes BASE/QUOTE, and the ways there and back.

Ours is the base and the quote asset with a slash between, as "BTC/USD"; a perpetual future
adds "-PERP" and one with an end its date, as "BTC/USD-20210924"; where a contract is worth an
amount of the quote asset, "-INVERSE" follows, for both may be listed of one pair.
"""

from tickerml.kernel import MalformedMessage

#: Quote assets of the exchanges that write none between the two, longest first.
QUOTE_ASSETS = ("FDUSD", "USDT", "USDC", "BUSD", "USD", "BTC", "ETH", "BNB", "EUR", "GBP", "TRY", "BRL")

PERPETUAL = "-PERP"
INVERSE = "-INVERSE"

# BNBUSD is BNB/USD, yet its longest quote asset is BUSD. (TUSD is left out of QUOTE_ASSETS for
# the same reason: too many assets end in T.)
_BASES_ENDING_IN_B = frozenset({"ARB", "BNB", "SHIB", "TRB"})

# Kraken's own names of assets. XBT is ISO 4217's form for what is no country's money.
_OF_KRAKEN = {"XBT": "BTC", "XDG": "DOGE"}
_TO_KRAKEN = {ours: theirs for theirs, ours in _OF_KRAKEN.items()}


def concatenated(wire: str) -> str:
    """
    Return "BTCUSDT" (Binance) as "BTC/USDT", split at the longest quote asset that fits.

    Raises: MalformedMessage: it ends in no quote asset we know.
    """
    for quote in QUOTE_ASSETS:
        base = wire.removesuffix(quote)
        if base and base != wire and not (quote == "BUSD" and base + "B" in _BASES_ENDING_IN_B):
            return f"{base}/{quote}"
    raise MalformedMessage(f"unknown symbol: expected a known quote asset at its end, was {wire[:32]!r}")


def to_concatenated(symbol: str) -> str:
    """Return "BTC/USDT" as "BTCUSDT"."""
    return symbol.replace("/", "")


def dashed(wire: str) -> str:
    """Return "BTC-USD" (Coinbase, KuCoin) as "BTC/USD". Raises: MalformedMessage: it is not two names."""
    base, _, quote = wire.partition("-")
    return _joined(base, quote, "-", wire)


def to_dashed(symbol: str) -> str:
    """Return "BTC/USD" as "BTC-USD"."""
    return symbol.replace("/", "-")


def kraken(wire: str) -> str:
    """
    Return "XBT/USD" (Kraken v1) or "BTC/USD" (v2) as "BTC/USD"; XDG is DOGE.

    Raises: MalformedMessage: it is not two names.
    """
    base, _, quote = wire.partition("/")
    return _joined(_OF_KRAKEN.get(base, base), _OF_KRAKEN.get(quote, quote), "/", wire)


def to_kraken_v1(symbol: str) -> str:
    """Return "BTC/USD" as Kraken's v1 and its futures write it, "XBT/USD"; v2 writes it as we do."""
    base, _, quote = symbol.partition("/")
    return f"{_TO_KRAKEN.get(base, base)}/{_TO_KRAKEN.get(quote, quote)}"


def _joined(base: str, quote: str, between: str, wire: str) -> str:
    if not base or not quote or not f"{base}{quote}".isalnum():
        raise MalformedMessage(f"unknown symbol: expected BASE{between}QUOTE, was {wire[:32]!r}")
    return f"{base}/{quote}"
