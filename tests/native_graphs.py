"""Random exact graphs for the tests of the native engine, written as users' graphs may be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

PEAK = 2047


class GraphMaker:
    """Grows a graph whose sums provably stay below 2^24."""

    def __init__(self, rng: np.random.Generator, shape: list[int | None], peak: int = PEAK) -> None:
        self.rng, self.shape, self.peak, self.input_peak = rng, list(shape), peak, peak
        self.declared = ["N", *[d if i == 0 else f"d{i}" for i, d in enumerate(shape)]]
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.x = "x"

    def constant(self, value: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(onnx.numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(op, list(inputs), [name], **attributes))
        self.x = name
        return name

    def input_stage(self, center: Any, unit: float, peak: int) -> None:
        self.node("Sub", self.x, self.constant(np.asarray(center, np.float32)))
        self.node("Mul", self.x, self.constant(np.float32(unit)))
        self.node("Round", self.x)
        self.clip(-peak, peak)

    def clip(self, low: float, high: float) -> None:
        ends = self.constant(np.float32(low)), self.constant(np.float32(high))
        self.node("Clip", self.x, *ends)
        self.peak = int(max(-low, high))

    def product(self, weight: np.ndarray, exponent: np.ndarray, **attributes: Any) -> None:
        """Weights are integers worth 2^-exponent; int8 ones are dequantized in the graph."""
        op = "Gemm" if weight.ndim == 2 else "Conv"
        scale = np.exp2(-exponent.astype(float)).astype(np.float32)
        column = scale.reshape(-1, *([1] * (weight.ndim - 1)))
        if np.abs(weight).max(initial=0) <= 127:
            q, s = self.constant(weight.astype(np.int8)), self.constant(scale)
            w = f"t{len(self.nodes)}"
            self.nodes.append(onnx.helper.make_node("DequantizeLinear", [q, s], [w], axis=0))
        else:
            w = self.constant((weight * column).astype(np.float32))
        bias = self.rng.integers(-5000, 5001, len(weight)) * scale
        self.node(op, self.x, w, self.constant(bias.astype(np.float32)), **attributes)

    def rounded(self, unsigned: bool, bits: int) -> None:
        self.node("Round", self.x)
        self.clip(0 if unsigned else 1 - 2**bits, 2**bits - 1)

    def weights(self, shape: tuple[int, ...], wide: bool = False) -> np.ndarray:
        limit = 2000 if wide else 127
        w = self.rng.integers(-limit, limit + 1, shape)
        flat = np.abs(w).reshape(len(w), -1).sum(axis=1)
        room = ((1 << 24) - 10000) / max(self.peak, 1)
        shrink = np.maximum(1, np.ceil(flat / room)).astype(int)
        return np.sign(w) * (np.abs(w) // shrink.reshape(-1, *([1] * (w.ndim - 1))))

    def layer(
        self, n_out: int, kernel: tuple[int, ...], *, wide: bool = False, **given: Any
    ) -> None:
        """A convolution, rounded and clipped."""
        w = self.weights((n_out, self.shape[0] or 1, *kernel), wide)
        self.product(w, self.rng.integers(0, 17, n_out), **given)
        bits = int(self.rng.integers(4, 15))
        self.rounded(bool(self.rng.integers(2)), bits)
        self.shape[0] = n_out

    def shuffle(self, factor: int) -> None:
        """1-D pixel shuffle as torch's exporter and ours write it."""
        c = (self.shape[0] or 1) // factor
        self.node("Reshape", self.x, self.constant(np.array([0, c, factor, -1])))
        self.node("Transpose", self.x, perm=[0, 1, 3, 2])
        self.node("Reshape", self.x, self.constant(np.array([0, c, -1])))
        self.shape[0] = c

    def model(self, output_rank: int) -> bytes:
        free = ["N", *[f"o{i}" for i in range(output_rank - 1)]]
        make = onnx.helper.make_tensor_value_info
        graph = onnx.helper.make_graph(
            self.nodes,
            "g",
            [make("x", onnx.TensorProto.FLOAT, self.declared)],
            [make(self.x, onnx.TensorProto.FLOAT, free)],
            self.constants,
        )
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
        model.ir_version = 8
        onnx.helper.set_model_props(model, {"edgeae.input_peak": str(self.input_peak)})
        found: bytes = model.SerializeToString()
        return found


def random_series_graph(seed: int) -> tuple[bytes, list[tuple[int, ...]]]:
    """A graph of 1-D convolutions and shuffles, and input shapes that it takes."""
    rng = np.random.default_rng(seed)
    channels = int(rng.choice([1, 1, 2, 3, 6, 17]))
    g = GraphMaker(rng, [channels, None])
    if rng.integers(2):
        center = rng.integers(-50, 50, (1, channels, 1)) if rng.integers(2) else 7
        g.input_stage(center, float(rng.choice([1.0, 0.5, 4.0])), int(rng.choice([255, 2047])))
    for _ in range(int(rng.integers(1, 5))):
        kernel = int(rng.integers(1, 9))
        dilation = int(rng.choice([1, 1, 1, 2, 3]))
        g.layer(
            int(rng.choice([1, 2, 4, 5, 8, 12, 16, 24, 33, 48, 64])),
            (kernel,),
            wide=bool(rng.integers(4) == 0),
            strides=[int(rng.choice([1, 1, 2, 3]))],
            dilations=[dilation],
            pads=[int(v) for v in rng.integers(0, 5, 2)],
        )
        if g.shape[0] and g.shape[0] % 4 == 0 and rng.integers(2):
            g.shuffle(int(rng.choice([2, 4])))
    if rng.integers(2):
        g.node("Mul", g.x, g.constant(np.float32(2.0)))
        g.node("Add", g.x, g.constant(np.full((1, g.shape[0], 1), 321, np.float32)))
    lengths = [int(v) for v in (64, *rng.integers(40, 200, 2))]
    batches = [1, int(rng.integers(2, 5)), 1]
    return g.model(3), [(n, channels, t) for n, t in zip(batches, lengths, strict=True)]


def random_image_graph(seed: int) -> tuple[bytes, list[tuple[int, ...]]]:
    """A graph of 2-D convolutions, residuals, shuffles and concatenations, and input shapes."""
    rng = np.random.default_rng(seed)
    channels = int(rng.choice([1, 1, 3, 4]))
    g = GraphMaker(rng, [channels, None, None])
    for _ in range(int(rng.integers(1, 4))):
        kernel = tuple(int(v) for v in rng.integers(1, 6, 2))
        n_out = int(rng.choice([2, 4, 8, 12, 16, 24, 36]))
        g.layer(
            n_out,
            kernel,
            strides=[int(v) for v in rng.choice([1, 1, 2], 2)],
            dilations=[int(v) for v in rng.choice([1, 1, 2], 2)],
            pads=[int(v) for v in rng.integers(0, 3, 4)],
        )
        kind = int(rng.integers(6))
        if kind == 0 and n_out % 4 == 0:
            g.node("DepthToSpace", g.x, blocksize=2, mode=str(rng.choice(["CRD", "DCR"])))
            g.shape[0] = n_out // 4
        elif kind == 1:
            before, peak = g.x, g.peak
            g.layer(n_out, (3, 3), pads=[1, 1, 1, 1])
            g.node("Add", g.x, before)
            g.peak += peak
            g.node("Relu", g.x)
            g.node("Mul", g.x, g.constant(np.float32(0.5)))
            g.rounded(True, 12)
        elif kind == 2:
            before, peak = g.x, g.peak
            g.layer(5, (1, 3), pads=[0, 1, 0, 1])
            g.node("Concat", before, g.x, axis=1)
            g.shape[0], g.peak = n_out + 5, max(peak, g.peak)
        elif kind == 3:
            scales = g.constant(np.array([1, 1, 2, 2], np.float32))
            g.node(
                "Resize",
                g.x,
                "",
                scales,
                mode="nearest",
                coordinate_transformation_mode="asymmetric",
                nearest_mode="floor",
            )
    sizes = [(int(a), int(b)) for a, b in rng.integers(24, 40, (2, 2))]
    return g.model(4), [(n, channels, *s) for n, s in zip((1, 3), sizes, strict=True)]


def random_dense_graph(seed: int) -> tuple[bytes, list[tuple[int, ...]]]:
    """A graph of matrix products, and input shapes of many batch sizes."""
    rng = np.random.default_rng(seed)
    width = int(rng.integers(1, 90))
    g = GraphMaker(rng, [width])
    if rng.integers(2):
        g.input_stage(0, 8.0, 127)
    for _ in range(int(rng.integers(1, 5))):
        g.layer(int(rng.integers(1, 150)), (), wide=bool(rng.integers(3) == 0), transB=1)
    if rng.integers(2):  # a free end: the sums themselves
        w = g.weights((11, g.shape[0] or 1))
        g.product(w, rng.integers(0, 12, 11), transB=1)
    return g.model(2), [(n, width) for n in (1, 5, 64, 70)]
