"""The company of a plugin under test: a source, features, a trader, an exchange and a ledger."""
