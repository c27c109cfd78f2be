"""Prices of water: ratings, charges, statements, quotes and forecasts."""
