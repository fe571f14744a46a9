"""A module that answers no hook."""
