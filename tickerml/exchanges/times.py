"""Times as exchanges write them, as integer nanoseconds UTC: exact, for a float holds only 238 ns steps."""

from datetime import UTC, datetime

from tickerml.kernel import NS_PER_S, MalformedMessage

_REMEMBERED = 64  # seconds
_NS_OF_DIGIT = tuple(10 ** (9 - digits) for digits in range(10))  # of the last of so many decimals


def seconds_to_ns(text: str) -> int:
    """Return decimal Unix seconds ("1617643092.13643") as ns. Raises: MalformedMessage: no such number."""
    whole, _, fraction = text.partition(".")
    if not (whole.isdecimal() and len(whole) <= 10 and (not fraction or fraction.isdecimal())):
        raise MalformedMessage(f"malformed time: expected Unix seconds, was {text[:40]!r}")
    return int(whole) * NS_PER_S + int(fraction[:9].ljust(9, "0"))


def rfc3339_to_ns(text: str) -> int:
    """
    Return a UTC time ("2026-04-07T14:30:01.456789Z", up to nine decimals) as ns; "" is 0.

    Raises: MalformedMessage: no such time.
    """
    second = _seconds.get(text[:20])
    if second is not None and len(text) == 27 and text[26] == "Z" and (fraction := text[20:26]).isdecimal():
        return second + int(fraction) * 1000  # microseconds, as nearly all have
    if not text:
        return 0
    fraction = text[20:-1]
    is_exact = text[19:] == "Z" or (text[19:20] == "." and fraction.isdecimal() and len(fraction) <= 9)
    if not is_exact or text[-1] != "Z":
        raise MalformedMessage(f"malformed time: expected a UTC time, was {text[:40]!r}")
    return _second(text) + (int(fraction) * _NS_OF_DIGIT[len(fraction)] if fraction else 0)


_seconds: dict[str, int] = {}  # "2026-04-07T14:30:01." -> ns: thousands of messages share a second


def _second(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text[:19]).replace(tzinfo=UTC)
    except ValueError:
        raise MalformedMessage(f"malformed time: expected a UTC time, was {text[:40]!r}") from None
    if len(_seconds) >= _REMEMBERED:
        _seconds.clear()
    second = _seconds[text[:19] + "."] = int(moment.timestamp()) * NS_PER_S
    return second
