"""TickerML: a crypto paper-trading system that learns."""
