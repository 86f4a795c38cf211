"""Post-training quantization of dense chains: the integers, the graphs and every engine agree."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")
pytest.importorskip("onnx")

from edgeae.errors import ModelError, SignalError
from edgeae.exporting.certificate import NotDyadicError, certify
from edgeae.exporting.dense_graph import (
    INPUT,
    OUTPUT,
    float_graph,
    integer_graph,
    qdq_graph,
    window_graphs,
)
from edgeae.exporting.integers import run_integers
from edgeae.exporting.torch_graph import run_torch
from edgeae.importing.measures import sqnr_db
from edgeae.models.dense import DenseLayer, narrowest, run_dense
from edgeae.quantize.static import quantize_dense
from edgeae.runtime.session import OPTIMIZATION_LEVELS, open_session


def chain(seed: int, widths=(24, 16, 4, 16, 24), hidden="relu") -> list[DenseLayer]:
    rng = np.random.default_rng(seed)
    return [
        DenseLayer(
            name=f"d{number}",
            weight=rng.normal(0, (2 / n_in) ** 0.5, (n_out, n_in))
            * rng.lognormal(0, 1, (n_out, 1)),
            bias=rng.normal(0, 0.3, n_out),
            activation=hidden if number < len(widths) - 2 else "linear",
        )
        for number, (n_in, n_out) in enumerate(pairwise(widths))
    ]


def gain(rng: np.random.Generator, n_out: int) -> np.ndarray:
    """Channels as different in loudness as folded normalisations leave them."""
    return rng.lognormal(0, 1, (n_out, 1))


def rows(seed: int, n: int = 64, width: int = 24) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(-3, 2, (n, width)) * 7).astype(np.float32)


def run(graph, x: np.ndarray, **options) -> np.ndarray:
    content = graph.SerializeToString()
    return open_session(
        content, name="x.onnx", input_name=INPUT, output_name=OUTPUT, **options
    ).run(x)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), peak=st.sampled_from([7, 31, 64]), signed=st.booleans())
def test_both_spellings_give_the_integers_bits_on_every_level(seed, peak, signed):
    layers = chain(seed, hidden="linear" if signed else "relu")
    dense = quantize_dense(layers, rows(seed), dyadic=True, weight_peak=peak)
    x = rows(seed + 1) * 3  # beyond the calibrated range too
    expected = dense.run(x).astype(np.float32)
    graphs = integer_graph(dense, {}), qdq_graph(dense, {})
    for graph in graphs:
        assert len(certify(graph)) == len(layers)
        for level in OPTIMIZATION_LEVELS:
            np.testing.assert_array_equal(run(graph, x, optimization=level), expected)
        np.testing.assert_array_equal(run_torch(graph, x), expected)
    one = np.concatenate([run(graphs[1], x[i : i + 1]) for i in range(9)])
    np.testing.assert_array_equal(one, expected[:9])


def test_weights_are_kept_where_no_processor_saturates():
    """Two products of an unsigned byte and a weight fit 16 bits: 2 * 255 * 64 < 2^15."""
    for dyadic in (False, True):
        dense = quantize_dense(chain(1), rows(1), dyadic=dyadic)
        assert max(np.abs(layer.weight.astype(int)).max() for layer in dense.layers) <= 64
    assert 2 * 255 * 64 < 2**15


def test_quantized_chains_stay_close():
    layers, x = chain(2), rows(2, 128)
    reference = run_dense(layers, x[1::2])[-1]
    for dyadic, least in ((False, 24), (True, 20)):
        dense = quantize_dense(layers, x[::2], dyadic=dyadic)
        assert sqnr_db(reference, dense.run(x[1::2])) > least
        got = run(qdq_graph(dense, {}), x[1::2])
        assert sqnr_db(dense.run(x[1::2]), got) > 35  # free scales: up to ties of the rounding
    assert sqnr_db(reference, run(float_graph(layers, {}), x[1::2])) > 100


def test_compensated_rounding_beats_plain_rounding_of_what_it_calibrated_on():
    layers, x = chain(3, widths=(24, 24)), rows(3, 256)
    dense = quantize_dense(layers, x, dyadic=True, weight_peak=7)
    (layer,) = dense.layers
    n = dense.integers(x)
    target = run_dense(layers, x)[-1]
    plain = np.rint(layers[0].weight * dense.step / layer.scale[:, None])
    bias = (target - n @ (plain * layer.scale[:, None]).T).mean(axis=0)
    by_plain = np.mean((n @ (plain * layer.scale[:, None]).T + bias - target) ** 2)
    assert np.mean((dense.run(x) - target) ** 2) < by_plain


def test_halves_for_a_bundle_are_the_whole():
    layers, x = chain(4), rows(4)
    dense = quantize_dense(layers, x, dyadic=True)
    graphs = window_graphs(dense, narrowest(layers), 8, dense.step / 8, {})
    windows = np.rint(x.reshape(-1, 3, 8).transpose(0, 2, 1) / dense.step * 8).astype(np.float32)
    for graph in graphs.values():
        certify(graph)
    latent = run_integers(graphs["encoder.onnx"], windows)
    index = run_integers(graphs["decoder.onnx"], latent.astype(np.float32))
    on_grid = windows.transpose(0, 2, 1).reshape(len(x), -1) * dense.step / 8
    whole = np.rint(dense.run(on_grid) / dense.step * 8)
    np.testing.assert_array_equal(index.transpose(0, 2, 1).reshape(len(x), -1), whole)
    series = windows.transpose(1, 0, 2).reshape(1, 8, -1)  # all windows as one signal
    joined = run_integers(graphs["encoder.onnx"], series)
    np.testing.assert_array_equal(joined[0].T, latent[:, :, 0])


def test_what_cannot_be_quantized_is_named():
    layers = chain(0)
    with pytest.raises(ModelError, match=r"'d0'.*tanh"):
        quantize_dense(chain(0, hidden="tanh"), rows(0), dyadic=True)
    for bad in (np.zeros((4, 24)), np.full((4, 24), np.inf), np.zeros((0, 24))):
        with pytest.raises(SignalError):
            quantize_dense(layers, bad, dyadic=True)
    with pytest.raises(ModelError, match="takes"):
        quantize_dense(layers, rows(0, width=23), dyadic=True)
    free = quantize_dense(layers, rows(0), dyadic=False)
    with pytest.raises(ModelError, match="free scales"):
        integer_graph(free, {})
    with pytest.raises(NotDyadicError):
        certify(qdq_graph(free, {}))
    with pytest.raises(ModelError, match="windows"):
        window_graphs(quantize_dense(layers, rows(0), dyadic=True), 2, 7, 1.0, {})
    with pytest.raises(ModelError, match="bottleneck"):
        narrowest(layers[:1])
