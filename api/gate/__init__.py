"""Checks before every view: who may call it, and how often."""
