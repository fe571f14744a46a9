"""A plugin whose hook was never finished; as text, so that linters can read this file."""

exec("def tickerml_strategies(:")
