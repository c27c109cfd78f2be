"""Register readings: kept raw as they arrive, and judged, rolled up and charged in rounds (docs/readings.md)."""
