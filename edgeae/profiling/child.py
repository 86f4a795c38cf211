"""The program that runs in a fresh process: ``python -m edgeae.profiling.child JOB``.

It imports what a device's program would, step by step, so that time and memory can be told apart.
Nothing but the standard library is imported before the first step. JOB is a JSON object:

======  ============================================================================
role    ``import``: numpy and the package, then stop. ``load``: the model too.
        ``encode``, ``decode``, ``run``: handle the first frame, say so with a dot on
        stdout at once, then go on for ``n_frames``. ``grow``: a long time of it.
        ``encode_file``, ``decode_file``: a .npy or a stream, piece by piece.
model   path of the bundle, or of an ONNX file
source  .npy of the frames [K, ...], or .npz of packets or of a graph's inputs
======  ============================================================================

The last line on stdout is a JSON object.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from typing import Any

from edgeae.profiling.rss import peak_kib, rss_kib

_POINTS = 200
_WARM_FRAMES = 300
_FILE_FRAMES = 32
_CHUNK_BYTES = 4096


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Run a job; see the module's docstring."""
    stamps = {"started": time.perf_counter()}
    memory: dict[str, int | None] = {"interpreter_kib": rss_kib()}

    def step(name: str) -> None:
        stamps[name] = time.perf_counter()
        memory[f"{name}_kib"] = rss_kib()

    importlib.import_module("numpy")
    step("numpy")
    memory["numpy_peak_kib"] = peak_kib()
    for name in job["imports"]:
        importlib.import_module(name)
    step("import")
    found: dict[str, Any] = {}
    if job["role"] != "import":
        model = _open_graph(job) if job["graph"] else _open_bundle(job)
        step("load")
        if job["role"] == "grow":
            found["growth"] = _grow(
                _graph_loop(model, job) if job["graph"] else _loop(model, job), job
            )
        elif job["role"].endswith("_file"):
            _code_file(model, job)
        elif job["role"] != "load":
            call, inputs = _graph_calls(model, job) if job["graph"] else _calls(model, job)
            _frames(call, inputs, job["n_frames"], step)
    return found | {
        "memory": memory | {"peak_kib": peak_kib()},
        "seconds": stamps,
        "heavy": sorted({"torch", "onnx"} & set(sys.modules)),
    }


def _frames(call: Any, inputs: Any, n_frames: int, step: Any) -> None:
    """Handle the first frame, then more of them."""
    call(inputs[0])
    step("first")
    sys.stdout.write(".")
    sys.stdout.flush()
    for number in range(1, n_frames):
        call(inputs[number % len(inputs)])
    step("steady")


def _grow(once: Any, job: dict[str, Any]) -> dict[str, Any]:
    """Handle one frame after the other, and watch the memory."""
    wanted, seconds = job["n_frames"], job["seconds"]
    every = max(1, (wanted or 20_000) // _POINTS)
    points: list[list[float | None]] = []
    began, done, over = time.perf_counter(), 0, False
    while not over:
        once(done)
        done += 1
        over = done >= wanted if wanted else time.perf_counter() - began >= seconds
        if done % every == 0 or over or done == _WARM_FRAMES:
            points.append([done, round(time.perf_counter() - began, 3), rss_kib()])
            if len(points) > 2 * _POINTS:  # the pace was not known before
                points = points[1::2]
                every *= 2
    return {"n_frames": done, "warm_frames": _WARM_FRAMES, "points": points}


# -- bundles ---------------------------------------------------------------------------------------


def _open_bundle(job: dict[str, Any]) -> Any:
    bundle = importlib.import_module("edgeae.runtime.bundle").load(job["model"], **job["load"])
    if bundle.task == "denoise":
        return importlib.import_module("edgeae.profiling.denoise_calls").process_of(bundle)
    if bundle.net is not None:
        bundle.decoder()
        if not job["role"].startswith("decode"):
            bundle.encoder()
    len(bundle.sample_priors)  # reads the priors
    return bundle


def _encoder(bundle: Any, job: dict[str, Any], pieces: Any) -> Any:
    make = importlib.import_module("edgeae.tasks.stream").StreamEncoder
    return make(bundle, profile="radio", frame_length=pieces.shape[1], **job["keywords"])


def _calls(bundle: Any, job: dict[str, Any]) -> tuple[Any, Any]:
    """What takes one input, and the inputs."""
    numpy = importlib.import_module("numpy")
    if job["role"] == "run":  # of a denoiser, open and ready
        return bundle, numpy.load(job["source"], mmap_mode="r")
    if job["role"] != "decode":
        pieces = numpy.load(job["source"], mmap_mode="r")
        return _encoder(bundle, job, pieces).write, pieces
    make = importlib.import_module("edgeae.tasks.stream").StreamDecoder
    with numpy.load(job["source"]) as arrays:
        packets = [arrays[f"p{k}"].tobytes() for k in range(len(arrays.files))]
    state: dict[str, Any] = {}

    def read(packet: bytes) -> None:
        # The packets are the beginning of a stream: before it begins anew, so does the decoder.
        if packet is packets[0]:
            state["decoder"] = make(bundle)
        state["decoder"].write(packet)
        state["decoder"].end_packet()

    return read, packets


def _loop(bundle: Any, job: dict[str, Any]) -> Any:
    """Code and decode frame number k of one long stream."""
    pieces = importlib.import_module("numpy").load(job["source"])
    if callable(bundle):  # a denoiser
        return lambda k: bundle(pieces[k % len(pieces)])
    encoder = _encoder(bundle, job, pieces)
    decoder = importlib.import_module("edgeae.tasks.stream").StreamDecoder(bundle)

    def once(k: int) -> None:
        decoder.write(encoder.write(pieces[k % len(pieces)]))
        decoder.end_packet()

    return once


def _code_file(bundle: Any, job: dict[str, Any]) -> None:
    """Code the beginning of a .npy, or decode a stream, as a program with little memory does."""
    stream = importlib.import_module("edgeae.tasks.stream")
    if job["role"] == "decode_file":
        decoder = stream.StreamDecoder(bundle)
        with open(job["source"], "rb") as file:
            while data := file.read(_CHUNK_BYTES):
                decoder.write(data)
        decoder.close()
        return
    keywords = job["keywords"]
    length = keywords["frame_length"]
    signal = importlib.import_module("numpy").load(job["source"], mmap_mode="r")
    encoder = stream.StreamEncoder(bundle, **keywords)
    for start in range(0, min(len(signal), _FILE_FRAMES * length), length):
        encoder.write(signal[start : start + length])
    encoder.close()


# -- graphs ----------------------------------------------------------------------------------------


def _open_graph(job: dict[str, Any]) -> Any:
    with open(job["model"], "rb") as file:
        data = file.read()
    return importlib.import_module("edgeae.profiling.graph_runs").open_run(data, **job["load"])


def _graph_calls(graph: Any, job: dict[str, Any]) -> tuple[Any, Any]:
    numpy = importlib.import_module("numpy")
    with numpy.load(job["source"]) as arrays:
        feed = {name: arrays[name] for name in arrays.files}
    return graph.prepare(feed), [None]


def _graph_loop(graph: Any, job: dict[str, Any]) -> Any:
    return _graph_calls(graph, job)[0]


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
