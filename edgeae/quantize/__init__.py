"""Trained nets to dyadic arithmetic: fine-tuning, closed loops, counted tables, or no training."""

from edgeae.quantize.dyadic import quantize
from edgeae.quantize.static import quantize_dense

__all__ = ["quantize", "quantize_dense"]
