"""Bring a float net into the formats of runtimes that do not read ONNX.

    python bench/convert.py FP32.onnx EXAMPLES.npy OUT KIND...      KIND: one of KINDS

Writes ``KIND-b1`` and ``KIND-b196`` with the runtime's suffix into OUT. The suites call this in a
process of its own, for the converters are large; they may live in another environment, whose python
``EDGEAE_BENCH_CONVERTER`` names.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from float_nets import torch_net

BATCHES = (1, 196)
KINDS = {
    "litert-fp32": ".tflite",
    "litert-int8": ".tflite",
    "executorch-fp32": ".pte",
    "executorch-int8": ".pte",
}
NEEDS = {"litert": ("litert_torch", "litert-torch"), "executorch": ("executorch", "executorch")}


def files_of(kind: str, folder: Path) -> dict[int, Path]:
    """The file for each batch."""
    return {batch: folder / f"{kind}-b{batch}{KINDS[kind]}" for batch in BATCHES}


def to_litert(module: Any, examples: np.ndarray, int8: bool, to: Path, batch: int) -> None:
    """litert-torch converts; ai-edge-quantizer calibrates: int8, a scale per output channel.

    It keeps a moving average of the ranges of what it is fed, which clips the few loud windows;
    so the ranges always come from one large batch.
    """
    import litert_torch
    import torch

    sample = (torch.from_numpy(np.resize(examples, (batch, *examples.shape[1:]))),)
    model = litert_torch.convert(module, sample)
    if not int8:
        model.export(str(to))
        return
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer, recipe

    plain, large = to.with_suffix(".float"), to.with_suffix(".large")
    model.export(str(plain))
    litert_torch.convert(module, (torch.from_numpy(examples),)).export(str(large))
    feeds = {}
    for path in (plain, large):
        (name, ends), *_ = Interpreter(str(path)).get_signature_list().items()
        feeds[path] = {name: [{ends["inputs"][0]: examples}]}
    made = {path: quantizer.Quantizer(str(path)) for path in feeds}
    for each in made.values():
        each.load_quantization_recipe(recipe.static_wi8_ai8())
    ranges = made[large].calibrate(feeds[large])
    to.write_bytes(made[plain].quantize(ranges).quantized_model)
    plain.unlink()
    large.unlink()


def to_executorch(module: Any, examples: np.ndarray, int8: bool, to: Path, batch: int) -> None:
    """The XNNPACK backend, ExecuTorch's for CPUs; int8 by its quantizer, per output channel."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    sample = (torch.from_numpy(np.resize(examples, (batch, *examples.shape[1:]))),)
    if int8:
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
            XNNPACKQuantizer,
            get_symmetric_quantization_config,
        )
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        config = get_symmetric_quantization_config(is_per_channel=True)
        ready = prepare_pt2e(
            torch.export.export(module, sample).module(), XNNPACKQuantizer().set_global(config)
        )
        for part in np.array_split(examples[: 98 // batch * batch], max(98 // batch, 1)):
            ready(torch.from_numpy(part if batch == 1 else np.resize(part, sample[0].shape)))
        if batch > len(examples):
            ready(*sample)
        module = convert_pt2e(ready)
    program = to_edge_transform_and_lower(
        torch.export.export(module, sample), partitioner=[XnnpackPartitioner()]
    )
    to.write_bytes(program.to_executorch().buffer)


def main() -> int:
    warnings.simplefilter("ignore")
    source, examples, folder, *kinds = sys.argv[1:]
    module = torch_net(Path(source).read_bytes())
    rows = np.load(examples)
    for kind in kinds:
        runtime, precision = kind.split("-")
        convert = {"litert": to_litert, "executorch": to_executorch}[runtime]
        for batch, path in files_of(kind, Path(folder)).items():
            convert(module, rows, precision == "int8", path, batch)
    return 0


if __name__ == "__main__":
    sys.exit(main())
