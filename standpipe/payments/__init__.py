"""Money in: providers, their notices, and the one ``settle`` that makes the ledger agree with them."""
