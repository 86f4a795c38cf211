"""Quantized runs and foreign torch modules to bundles; certificate and verification."""

from edgeae.exporting.bundle import export_run
from edgeae.exporting.certificate import certify
from edgeae.exporting.verify import verify_bundle

__all__ = ["certify", "export_run", "verify_bundle"]
