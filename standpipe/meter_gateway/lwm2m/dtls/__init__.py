"""DTLS 1.2 with pre-shared keys under CoAP."""
