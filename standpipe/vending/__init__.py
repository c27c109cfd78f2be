"""Keypad tokens: offered where the radio does not get through, issued elsewhere, kept to be read again.

The issuer has the vending keys, and they never pass through here: a software issuer for the demo, or a machine that
guards them (decision 21, docs/meters/keypad-tokens.md).
"""
