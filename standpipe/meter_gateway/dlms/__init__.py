"""DLMS/COSEM over TCP: meters that dial in."""
