"""A utility that nobody lives in, to measure with: as much history as is asked for, and books that explain it."""
