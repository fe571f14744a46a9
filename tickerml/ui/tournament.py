"""
What the console knows of a fill-model tournament: what the same orders come to under each model.

Money of two assets cannot be added, so each quote asset has a band of its own, from the model that
gains least to the one that gains most, over all markets in it. What is real is one row, though the
exchanges may have models of their own.
"""

from tickerml.kernel import UNIT, ModelResult, TournamentMeasured

from .rows import Row, signed, tone_of

MODELS = (
    ("Model", ""),
    ("Orders filled", "r num"),
    ("Fills", "r num"),
    ("Notional", "r num"),
    ("Fees", "r num"),
    ("P&L", "r num"),
    ("Optimism", "r num"),
    ("Asset", ""),
)


class TournamentBoard:
    """The last word on each market of the tournament."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, str], TournamentMeasured] = {}

    def take(self, measured: TournamentMeasured) -> None:
        """Take what was measured in one market."""
        self._told[measured.exchange, measured.symbol] = measured

    def summary(self) -> str:
        """Return one line on each asset's band; "" where no tournament is held."""
        return " · ".join(self._band(asset) for asset in self._assets())

    def rows(self) -> list[Row]:
        """Return a row for each asset and model, in the columns of MODELS, what is real first."""
        return [
            _row(asset, name, results, index == 0)
            for asset in self._assets()
            for index, (name, results) in enumerate(self._models(asset).items())
        ]

    def _assets(self) -> list[str]:
        return sorted({told.asset for told in self._told.values()})

    def _band(self, asset: str) -> str:
        told = [one for one in self._told.values() if one.asset == asset]
        gained = [sum(one.pnl for one in results) for results in self._models(asset).values()]
        accepted = sum(one.accepted for one in told)
        band = f"P&L from {signed(min(gained))} to {signed(max(gained))} {asset}"
        return f"the same {accepted:,} orders: {band} ({signed(gained[0])} real)"

    def _models(self, asset: str) -> dict[str, list[ModelResult]]:
        found: dict[str, list[ModelResult]] = {"": []}
        for key in sorted(self._told):
            if self._told[key].asset == asset:
                real, *others = self._told[key].results
                found[""].append(real)
                for result in others:
                    found.setdefault(result.model, []).append(result)
        return found


def _row(asset: str, name: str, results: list[ModelResult], is_real: bool) -> Row:
    pnl, optimism = sum(one.pnl for one in results), sum(one.optimism for one in results)
    cells = [
        f"{', '.join(sorted({one.model for one in results}))} (real)" if is_real else name,
        f"{sum(one.orders for one in results):,}",
        f"{sum(one.fills for one in results):,}",
        f"{sum(one.notional for one in results) / UNIT:,.2f}",
        f"{sum(one.fees for one in results) / UNIT:,.2f}",
        signed(pnl),
        "" if is_real else signed(optimism),
        asset,
    ]
    tones = [""] * 5 + [tone_of(pnl), "warn" if optimism > 0 else ""]
    return Row(f"{asset} {name}", cells, "", tones)
