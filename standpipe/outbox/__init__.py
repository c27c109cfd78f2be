"""Facts, published in the same transaction that made them true."""
