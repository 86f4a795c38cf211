"""Random causal nets within the certificate, for the tests of the priors."""

from __future__ import annotations

import numpy as np

from edgeae.runtime.causal import CausalLayer, CausalNet

LIMIT = 1 << 24


def random_layer(
    rng: np.random.Generator, n_in: int, n_out: int, offsets: list[int], peak: int, bits: int
) -> CausalLayer:
    weight = rng.integers(-128, 128, (n_out, len(offsets), n_in), dtype=np.int8)
    while np.abs(weight.astype(int)).sum((1, 2)).max() * peak >= LIMIT // 2:
        weight //= 2
    gain = np.abs(weight.astype(int)).sum((1, 2)) * peak / (2**bits if bits else 256)
    shift = np.clip(np.log2(gain + 1) - rng.integers(1, 4, n_out), -4, 23).astype(np.int32)
    return CausalLayer(
        offsets=tuple(offsets),
        weight=weight,
        bias=rng.integers(-20000, 20000, n_out).astype(np.int32),
        shift=shift,
        bits=bits,
    )


def random_offsets(rng: np.random.Generator, deepest: int) -> list[int]:
    kind = rng.integers(3)
    if kind == 0:  # one run
        first = int(rng.integers(0, 3))
        return list(range(first, first + int(rng.integers(1, 9))))
    if kind == 1:  # dilated
        return [0, int(rng.integers(1, deepest + 1))]
    n = int(rng.integers(1, 6))
    return sorted(rng.choice(deepest + 1, n, replace=False).tolist())


def random_net(
    seed: int,
    past: list[bool],
    n_outputs: int,
    *,
    n_layers: int | None = None,
    feature_peak: int = 2047,
    deepest: int = 70,
    dense: bool = False,
) -> CausalNet:
    rng = np.random.default_rng(seed)

    def offsets_to(depth: int) -> list[int]:
        return [0] if dense else random_offsets(rng, depth)

    n_layers = int(rng.integers(0, 4)) if n_layers is None else n_layers
    width, peak = len(past), feature_peak
    layers = []
    for _ in range(n_layers):
        n_out, bits = int(rng.integers(1, 12)), int(rng.integers(4, 13))
        offsets = offsets_to(deepest)
        layers.append(random_layer(rng, width, n_out, offsets, peak, bits))
        width, peak = n_out, layers[-1].peak
    head = random_layer(rng, width, n_outputs, offsets_to(5), peak, 0)
    taps = offsets_to(deepest) if rng.integers(2) else []
    skip = rng.integers(-2048, 2048, (n_outputs, len(taps), len(past)), dtype=np.int16)
    while taps and np.abs(skip.astype(int)).sum((1, 2)).max() * feature_peak >= LIMIT:
        skip //= 2
    return CausalNet(
        n_inputs=len(past),
        past=np.array(past),
        layers=tuple(layers),
        head=head,
        skip_offsets=tuple(taps),
        skip_weight=skip,
        skip_shift=rng.integers(5, 20, n_outputs).astype(np.int32),
        feature_peak=feature_peak,
    )
