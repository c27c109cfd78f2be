"""Supply of each meter, and what it does when its credit ends."""
