"""Trusted documents: the GraphQL operations that apps were built with, known by their SHA-256."""
