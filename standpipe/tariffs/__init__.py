"""Prices: pure block pricing, and the tariffs that utilities publish."""
