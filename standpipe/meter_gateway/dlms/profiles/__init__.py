"""Meter profiles: what a model of meter calls its things. A new model is a new TOML file in this folder.

The files are data; ``profile.py`` says what may stand in them. docs/meters/new-profile.md is the guide.
"""
