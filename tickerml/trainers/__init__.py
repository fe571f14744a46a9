"""Trainers, for the PC only; the first one arrives with the models."""
