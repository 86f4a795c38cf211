"""Small images, one at a time: edgeae beside image formats and PCA.

Each image is a file, or a frame, of its own. Beside a format's size stands that of a black image in
it: what is beyond that is the least one could argue the format needs. Lossy coders are swept; the
distortion of a setting is the PSNR of the mean squared error over all images, peak 255.
"""

from __future__ import annotations

import importlib.util
import io
import lzma
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import measure
import numpy as np
from numpy.typing import NDArray
from streams import MODELS
from suite import say

import edgeae
from edgeae.bitstream.reader import FrameReader
from edgeae.train.datasets import load_dataset

__all__ = ["CODERS", "LOSSLESS", "SUITES", "rows"]

Array = NDArray[Any]
Coder = tuple[str, Callable[[Array], bytes], Callable[[bytes], Array]]

LOSSLESS = "lossless"
SUITES = {"mnist": "mnist"}  # and their named data sets
FEW = 500  # images of the test part, its first, for formats that lose something: some are slow
PCA = "PCA, ideal code"
CODERS = (
    *("edgeae", "edgeae, no model", PCA, "PNG", "WebP", "JPEG", "JPEG 2000", "JPEG XL", "AVIF"),
    *("xz, raw", "zstd, dictionary"),
)


def rows(name: str, coders: set[str], models: Path = MODELS, *, quick: bool) -> list[list[Any]]:
    """Every coder's rows of a suite of images."""
    train = load_dataset(SUITES[name], "train").segments[0]
    images = load_dataset(SUITES[name], "test").segments[0]
    if quick:
        train, images = train[:5000], images[:100]
    few = images[:FEW]
    found: list[list[Any]] = []
    if "edgeae" in coders:
        found += _ours(name, images, models)
    if "edgeae, no model" in coders:
        found.append([name, "edgeae, no model", LOSSLESS, *_lossless(None, images), "", ""])
    if PCA in coders:
        found += [[name, PCA, *row] for row in _pca(train, images)]
    for coder, ways in _formats(train).items():
        if coder not in coders:
            continue
        for setting, encode, decode in ways:
            lossless = setting == LOSSLESS
            part = images if lossless else few
            row = _one_by_one(part, encode, decode, lossless)
            found.append([name, coder, setting, *row, "", ""])
            if lossless and not found[-1][7]:
                say(f"{name}: {coder}: not lossless")
    return found


# -- ours ----------------------------------------------------------------------------------------


def _ours(name: str, images: Array, models: Path) -> Iterator[list[Any]]:
    """Lossless, and the window code at steps over all of its range, of every model of this data."""
    from edgeae.errors import EdgeAEError

    for path in sorted(models.glob("*/manifest.json")):
        bundle = edgeae.load(path.parent)
        recipe = bundle.manifest.raw.get("recipe", {}).get("data", {})
        spec = bundle.manifest.codec
        if recipe.get("source") != SUITES[name] or spec is None or not bundle.signal.is_image:
            continue
        size, note = measure.model_bytes(path.parent), f"bundle {path.parent.name}"
        if bundle.manifest.exact:
            row = _lossless(bundle, images)
            yield [name, "edgeae", LOSSLESS, *row, size, note]
        if spec.net is None:
            continue
        low, high = max(spec.net.min_step, 1), spec.net.max_step
        for step in np.unique(np.rint(np.geomspace(low, high, 13)).astype(int)):
            try:
                row = _lossy(bundle, images, int(step))
                yield [name, "edgeae", f"step {step}", *row, size, note]
            except EdgeAEError as error:
                say(f"{name}: step {step}: {error}")


def _lossless(bundle: Any, images: Array) -> list[Any]:
    return _stream(bundle, images, lossless=True)


def _lossy(bundle: Any, images: Array, step: int) -> list[Any]:
    return _stream(bundle, images, step=step)


def _stream(bundle: Any, images: Array, **promise: Any) -> list[Any]:
    """A frame counts with its payload, exceptions and the byte that says its mode."""
    began = time.perf_counter()
    data = edgeae.encode(bundle, images, frame_length=1, **promise)
    middle = time.perf_counter()
    decoded = edgeae.decode(bundle, data)
    ended = time.perf_counter()
    sizes = [1 + len(f.payload) + len(f.exceptions) for f in FrameReader(io.BytesIO(data))]
    error = _mse(images, decoded)
    return [
        *(len(images), f"{np.mean(sizes):.5g}", 1, _psnr(error)),
        int("lossless" not in promise or error == 0),
        *(f"{images.nbytes / 1e6 / s:.3g}" for s in (middle - began, ended - middle)),
    ]


# -- others --------------------------------------------------------------------------------------


def _one_by_one(
    images: Array, encode: Callable[[Array], bytes], decode: Callable[[bytes], Array],
    lossless: bool,
) -> list[Any]:  # fmt: skip
    began = time.perf_counter()
    coded = [encode(image) for image in images]
    middle = time.perf_counter()
    decoded = np.stack([decode(data) for data in coded])
    ended = time.perf_counter()
    decoded = decoded.reshape(*images.shape, -1)[..., 0]
    error = _mse(images, decoded)
    return [
        *(len(images), f"{np.mean([len(c) for c in coded]):.5g}"),
        *(len(encode(np.zeros_like(images[0]))), _psnr(error)),
        int(not lossless or error == 0),
        *(f"{images.nbytes / 1e6 / s:.3g}" for s in (middle - began, ended - middle)),
    ]


def _mse(images: Array, decoded: Array) -> float:
    difference = decoded.reshape(images.shape).astype(np.float64) - images
    return float(np.mean(difference * difference))


def _psnr(error: float) -> str:
    return f"{10 * np.log10(255**2 / error):.4g}" if error else ""


def _formats(train: Array) -> dict[str, list[Coder]]:
    """The formats that are installed, each with its settings."""
    found: dict[str, list[Coder]] = {}
    if importlib.util.find_spec("PIL"):
        from PIL import features

        found["PNG"] = [(LOSSLESS, partial(_save, format="PNG", optimize=True), _open)]
        if features.check("avif"):
            found["AVIF"] = [
                (
                    f"quality {q}",
                    partial(_save, format="AVIF", quality=q, subsampling="4:0:0", max_threads=1,
                            advanced={"tune": "psnr"}),
                    _open,
                )
                for q in (0, 8, 16, 30, 50)
            ]  # fmt: skip
    if importlib.util.find_spec("imagecodecs"):
        found |= _imagecodecs()
    else:
        say("images: formats skipped: pip install imagecodecs")
    found["xz, raw"] = [_xz_raw(train.shape[1:])]
    if importlib.util.find_spec("zstandard"):
        found["zstd, dictionary"] = [_zstd_dictionary(train)]
    return found


def _save(image: Array, **options: Any) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, **options)
    return file.getvalue()


def _open(data: bytes) -> Array:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(data)).convert("L"))


def _imagecodecs() -> dict[str, list[Coder]]:
    import imagecodecs as ic

    def color(image: Array) -> Array:
        return np.repeat(image[..., None], 3, axis=2)

    def webp(image: Array, **options: Any) -> bytes:
        return bytes(ic.webp_encode(color(image), method=6, **options))

    def jpeg(image: Array, level: int) -> bytes:
        return bytes(ic.jpeg_encode(image, level=level, optimize=True))

    def j2k(image: Array, **options: Any) -> bytes:
        return bytes(ic.jpeg2k_encode(image, codecformat="j2k", **options))

    def jxl(image: Array, **options: Any) -> bytes:
        return bytes(ic.jpegxl_encode(image, effort=7, usecontainer=False, **options))

    return {
        "WebP": [
            (LOSSLESS, partial(webp, level=100, lossless=True), ic.webp_decode),
            *(
                (f"quality {q}", partial(webp, level=q, lossless=False), ic.webp_decode)
                for q in (0, 5, 10, 20, 40, 60)
            ),
        ],
        "JPEG": [
            (f"quality {q}", partial(jpeg, level=q), ic.jpeg_decode)
            for q in (2, 5, 10, 20, 40, 60, 80)
        ],
        "JPEG 2000": [
            (LOSSLESS, partial(j2k, resolutions=3, reversible=True), ic.jpeg2k_decode),
            *(
                (f"level {q}", partial(j2k, level=q, resolutions=3, reversible=False),
                 ic.jpeg2k_decode)
                for q in (19, 22, 25, 28, 31, 34)
            ),
        ],
        "JPEG XL": [
            (LOSSLESS, partial(jxl, lossless=True), ic.jpegxl_decode),
            *(
                (f"distance {q}", partial(jxl, distance=q, lossless=False), ic.jpegxl_decode)
                for q in (4, 8, 12, 18, 25)
            ),
        ],
    }  # fmt: skip


def _xz_raw(shape: Sequence[int]) -> Coder:
    options = {"id": lzma.FILTER_LZMA1, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 12}
    filters = [{**options, "lc": 0, "lp": 0, "pb": 0}]

    def encode(image: Array) -> bytes:
        return lzma.compress(image.tobytes(), lzma.FORMAT_RAW, filters=filters)

    def decode(data: bytes) -> Array:
        raw = lzma.decompress(data, lzma.FORMAT_RAW, filters=filters)
        return np.frombuffer(raw, np.uint8).reshape(shape)

    return LOSSLESS, encode, decode


def _zstd_dictionary(train: Array) -> Coder:
    """With a dictionary of 100,000 bytes, trained on the training part."""
    import zstandard

    samples = [image.tobytes() for image in train[:20_000]]
    dictionary = zstandard.train_dictionary(100_000, samples)
    parameters = zstandard.ZstdCompressionParameters.from_level(
        19, format=zstandard.FORMAT_ZSTD1_MAGICLESS, write_content_size=0, write_checksum=0,
        write_dict_id=0,
    )  # fmt: skip
    coder = zstandard.ZstdCompressor(dict_data=dictionary, compression_params=parameters)
    decoder = zstandard.ZstdDecompressor(
        dict_data=dictionary, format=zstandard.FORMAT_ZSTD1_MAGICLESS
    )
    shape = train.shape[1:]

    def decode(data: bytes) -> Array:
        raw = decoder.decompress(data, max_output_size=int(np.prod(shape)))
        return np.frombuffer(raw, np.uint8).reshape(shape)

    return LOSSLESS, lambda image: coder.compress(image.tobytes()), decode


# -- PCA -----------------------------------------------------------------------------------------


def _pca(train: Array, images: Array) -> Iterator[list[Any]]:
    """All components, one step, and the ideal length under tables counted in training."""
    x = train.reshape(len(train), -1).astype(np.float64)
    mean = x.mean(axis=0)
    _, axes = np.linalg.eigh(np.cov(x - mean, rowvar=False))
    axes = axes[:, ::-1]
    known, unknown = (x - mean) @ axes, (images.reshape(len(images), -1) - mean) @ axes
    for step in (40, 60, 80, 120, 160, 240, 320, 480):
        began = time.perf_counter()
        q = np.rint(unknown / step).astype(np.int64)
        trained = np.rint(known / step).astype(np.int64)
        bits = sum(_ideal_bits(trained[:, c], q[:, c]) for c in range(q.shape[1]))
        back = np.clip(np.rint(mean + q * step @ axes.T), 0, 255)
        mb_s = images.nbytes / 1e6 / (time.perf_counter() - began)
        size = bits / 8 / len(images)
        error = _mse(images, back)
        yield [f"step {step}", len(images), f"{size:.5g}", 0, _psnr(error), 1, f"{mb_s:.3g}", "",
               4 * axes.size, ""]  # fmt: skip


def _ideal_bits(trained: Array, q: Array) -> float:
    """What symbols take under a table counted on others, a hundredth of a count for the unseen."""
    reach = int(max(np.abs(trained).max(), np.abs(q).max()))
    counts = np.bincount(trained + reach, minlength=2 * reach + 1) + 0.01
    return float(-np.log2(counts / counts.sum())[q + reach].sum())
