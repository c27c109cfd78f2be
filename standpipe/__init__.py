"""Standpipe: the customer backend for prepaid smart water meters."""
