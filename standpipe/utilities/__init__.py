"""Utilities and the people who work there: operators, their sign-in, and the audit of what they did."""
