"""Bytes: range coder, frequency tables, frames and streams. Knows no model."""

from __future__ import annotations

from edgeae.bitstream.cdf import CdfFamily, laplace_shape, logistic_shape
from edgeae.bitstream.range_coder import RangeDecoder, RangeEncoder

__all__ = ["CdfFamily", "RangeDecoder", "RangeEncoder", "laplace_shape", "logistic_shape"]
