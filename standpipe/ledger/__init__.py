"""Double entry: append-only, zero-sum, and explained to the last minor unit."""
