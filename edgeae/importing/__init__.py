"""Bring models of other frameworks in, and compare nets layer by layer."""

from edgeae.importing.compare import compare_traces
from edgeae.importing.dense_import import import_keras, keras_to_torch
from edgeae.importing.trace import read_model

__all__ = ["compare_traces", "import_keras", "keras_to_torch", "read_model"]
