"""Bring models of other frameworks in, and compare nets layer by layer."""
