"""How each meter is supplied, and what it does when its credit ends."""
