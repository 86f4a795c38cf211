"""Models at work: bundles, sessions and the integer priors. Needs numpy and onnxruntime."""
