"""What one machine makes of a bundle, as hashes: runs on every platform, prints JSON.

    python engine.py BUNDLE WINDOWS.npz OUT

``WINDOWS.npz`` holds one float32 array of windows per graph, named ``file:input:output``, and
``signal``, grid indices [..., C] to code. Streams coded here go to OUT, one file per promise;
streams found there as ``host-*`` are decoded, too. Needs edgeae, numpy and onnxruntime only.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import edgeae
import edgeae.native
from edgeae.runtime.golden import self_test
from edgeae.runtime.session import OPTIMIZATION_LEVELS, open_session

STREAMS: dict[str, dict[str, Any]] = {
    "lossy": {},
    "max-error-5": {"max_error": 5, "profile": "radio"},
    "lossless": {"lossless": True},
}


def digest(values: np.ndarray) -> str:
    """Hash of an array's bits, in the byte order of the file, with one zero."""
    return hashlib.sha256((values + np.float32(0)).astype("<f4").tobytes()).hexdigest()


def graph_hashes(bundle: edgeae.Bundle, windows: dict[str, np.ndarray]) -> dict[str, str]:
    """Per graph and level of optimisation, the hash of what onnxruntime computes."""
    found = {}
    for key, x in windows.items():
        name, source, target = key.split(":")
        for level in OPTIMIZATION_LEVELS:
            session = open_session(
                bundle.files[name],
                name=name,
                input_name=source,
                output_name=target,
                optimization=level,
            )
            found[f"{name} {level}"] = digest(session.run(x))
    return found


def stream_hashes(bundle: edgeae.Bundle, x: np.ndarray, out: Path) -> dict[str, str]:
    """Hashes of coded streams, and of the samples that the host's streams decode to."""
    found = {}
    for name, options in STREAMS.items():
        if name == "lossy" and bundle.net is None:
            continue
        data = edgeae.encode(bundle, x, **options)
        (out / name).write_bytes(data)
        found[f"stream {name}"] = hashlib.sha256(data).hexdigest()
        theirs = out / f"host-{name}"
        y = edgeae.decode(bundle, theirs.read_bytes() if theirs.exists() else data)
        found[f"samples {name}"] = hashlib.sha256(np.ascontiguousarray(y).tobytes()).hexdigest()
    return found


def signal_of(bundle: edgeae.Bundle, index: np.ndarray) -> np.ndarray:
    """Grid indices as the samples that a user has."""
    dtype, grids = np.dtype(bundle.signal.dtype), bundle.signal.grids
    channels = [
        edgeae.Grid(*grids[c % len(grids)]).to_values(index[..., c], dtype)
        for c in range(index.shape[-1])
    ]
    return np.stack(channels, axis=-1)


def main() -> None:
    """Run the bundle and print what came out."""
    where, windows_path, out = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    began = time.perf_counter()
    bundle = edgeae.load(where)
    with np.load(windows_path) as loaded:
        windows = {name: loaded[name] for name in loaded.files}
    signal = windows.pop("signal")
    import onnxruntime

    print(
        json.dumps(
            {
                "machine": platform.machine(),
                "python": platform.python_version(),
                "numpy": np.__version__,
                "onnxruntime": onnxruntime.__version__,
                "extension": edgeae.native.core is not None,
                "self_test": list(self_test(bundle)),
                "hashes": graph_hashes(bundle, windows)
                | stream_hashes(bundle, signal_of(bundle, signal), out),
                "seconds": round(time.perf_counter() - began, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
