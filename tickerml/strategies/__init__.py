"""Strategies: features in, orders out."""
