"""The engine room: work done in batches, and what one transaction gathers and writes at its end."""
