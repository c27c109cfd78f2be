"""The outside world, for demos and tests: meters, a phone, providers. They speak real protocols and know no room."""
