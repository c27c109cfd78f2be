"""Telling customers in time: alert rules, pushes and texts."""
