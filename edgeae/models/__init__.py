"""Torch nets: dyadic layers, analysis and synthesis transforms, the priors' training twins."""
