"""Bring models of other frameworks in: Keras files to torch, and a layer-by-layer comparison with TFLite."""
