"""Meters: who they are, what they said last, and the commands that wait for them."""
