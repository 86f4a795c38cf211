"""How far an image's net looks: what tiles must overlap to give the bits of the whole."""

from __future__ import annotations

from edgeae.runtime.onnx_file import OnnxGraph, OnnxNode

__all__ = ["graph_reach"]

_EACH_BY_ITSELF = frozenset({
    "Add", "Cast", "Clip", "Concat", "DequantizeLinear", "Div", "Identity", "Max", "Min", "Mul",
    "QuantizeLinear", "Relu", "Round", "Sub",
})  # fmt: skip

_Seen = tuple[float, float]  # pixels per step of a tensor's grid, and pixels seen beyond it


def graph_reach(graph: OnnxGraph) -> int | None:
    """Pixels of the first input that an output depends on, beyond its own, to each side.

    Args:
        graph: of images [N, C, H, W]; its other inputs are taken to be the same everywhere.

    Returns:
        None where a node may look at the whole image.

    Example:
        >>> import edgeae
        >>> from edgeae.runtime.onnx_file import read_onnx
        >>> bundle = edgeae.load("export/models/denoise-image")
        >>> graph_reach(read_onnx(bundle.files["denoiser.onnx"]))
        17
    """
    seen: dict[str, _Seen] = {graph.inputs[0].name: (1.0, 0.0)}
    for node in graph.nodes:
        given = [seen[name] for name in node.inputs if name in seen]
        if not given:
            continue  # of constants, or of inputs that are the same everywhere
        found = _after(node, given)
        if found is None:
            return None
        seen.update(dict.fromkeys(node.outputs, found))
    ends = [seen[value.name] for value in graph.outputs if value.name in seen]
    if any(step != 1 for step, _ in ends):
        return None
    return max((int(reach) for _, reach in ends), default=0)


def _after(node: OnnxNode, given: list[_Seen]) -> _Seen | None:
    step, reach = given[0][0], max(reach for _, reach in given)
    if any(other != step for other, _ in given):
        return None
    attributes = node.attributes
    if node.op == "Conv":
        kernel = [int(k) for k in attributes.get("kernel_shape", ())]
        pads = [int(p) for p in attributes.get("pads", ())]
        strides = {int(s) for s in attributes.get("strides", (1,))}
        if len(kernel) != 2 or (pads and len(pads) != 4) or strides != {1}:
            return None
        apart = [int(d) for d in attributes.get("dilations", (1, 1))]
        spans = [(k - 1) * d for k, d in zip(kernel, apart, strict=True)]
        before = pads[:2] or [0, 0]
        if [a + b for a, b in zip(before, pads[2:] or [0, 0], strict=True)] != spans:
            return None  # the output is not of the input's size
        return step, reach + step * max(max(b, s - b) for b, s in zip(before, spans, strict=True))
    if node.op in ("SpaceToDepth", "DepthToSpace"):
        size = int(attributes["blocksize"])
        if node.op == "SpaceToDepth":
            return step * size, reach
        return step / size, reach + step - step / size
    return (step, reach) if node.op in _EACH_BY_ITSELF else None
