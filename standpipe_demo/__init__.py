"""The make-believe world: simulated meters, stand-ins for providers, phones and towns. Not for production."""
