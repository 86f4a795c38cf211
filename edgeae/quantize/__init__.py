"""Trained runs to dyadic arithmetic: fine-tuning, closed loops, counted tables."""

from edgeae.quantize.dyadic import quantize

__all__ = ["quantize"]
