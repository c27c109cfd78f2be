"""Ratios measured in one run on one machine; see docs/bench.md for what was last seen."""
