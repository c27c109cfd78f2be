"""People, their households, and how they sign in."""
