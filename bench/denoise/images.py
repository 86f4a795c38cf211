"""Grey images with Gaussian noise: ours beside BM3D, non-local means, total variation, wavelets.

The twelve images of denoising papers (Set12), noise seeded, not clipped, as papers have it; and
once more rounded and clipped to 8 bits, as a camera gives it (without BM3D, which takes minutes).
Every method is told sigma but "edgeae, sigma unknown". Strengths are tuned at each sigma on
training images. PSNR is of 8-bit output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from common import MODELS, OURS, Array, Method, Row, bundle_of, mean, say, tuned, usable
from numpy.typing import NDArray

import edgeae
from edgeae.train.datasets import load_dataset
from edgeae.train.denoise_images import psnr_db
from edgeae.train.recipe import load_recipe

Image = NDArray[np.uint8]
SEED = 0
TUNED_IMAGES = 8
TOLD = "tuned on training images"


def noisy_image(clean: Image, place: int, sigma: float, *, clipped: bool) -> Array:
    """Seeded by the image's place and sigma, as in the model's own figures."""
    rng = np.random.default_rng([SEED, place, round(sigma * 16)])
    noisy = clean + rng.standard_normal(clean.shape) * sigma
    return np.clip(np.rint(noisy), 0, 255) if clipped else noisy


def grey(split: str) -> list[Image]:
    """Images of the recipe's data."""
    data = load_dataset(load_recipe("denoise-image").data.source, split)
    return [np.asarray(image) for segment in data.segments for image in segment]


def classical(sigma: float, train: Sequence[Image], *, slow: bool) -> Iterator[Method | list[Row]]:
    """The peers, tuned; a list of rows for those that are missing."""
    noisy = [noisy_image(x, i, sigma, clipped=False) for i, x in enumerate(train)]

    def best(name: str, options: dict[str, Callable[[Array], Array]]) -> Method:
        chosen, run = tuned(
            options.items(),
            lambda run: mean(psnr_db(x, run(y)) for x, y in zip(train, noisy, strict=True)),
        )
        return Method(name=name, run=run, chosen=f"{chosen}, {TOLD}")

    from scipy import signal as dsp

    yield best(
        "Wiener (scipy)",
        {f"{n} x {n}": lambda y, n=n: dsp.wiener(y, n, sigma**2) for n in (3, 5, 7)},
    )
    there, missing = usable("images", "skimage", "scikit-image")
    yield missing
    if there:
        from skimage import restoration as r

        top = 255.0
        yield best(
            "wavelet (scikit-image)",
            {
                f"{n}, {method}": lambda y, n=n, method=method: (
                    top * r.denoise_wavelet(y / top, sigma / top, n, "soft", method=method)
                )
                for n in ("db2", "sym4", "sym8")
                for method in ("BayesShrink", "VisuShrink")
            },
        )
        yield best(
            "total variation (scikit-image)",
            {
                f"weight {w:g} sigma": lambda y, w=w: (
                    top * r.denoise_tv_chambolle(y / top, w * sigma / top, eps=1e-5)
                )
                for w in (0.4, 0.5, 0.6, 0.8, 1.0)
            },
        )
        yield best(
            "non-local means (scikit-image)",
            {
                f"patch {p}, h {h:g} sigma": lambda y, p=p, h=h: r.denoise_nl_means(
                    y, p, 9, h * sigma, fast_mode=True, sigma=sigma
                )
                for p in (5, 7)
                for h in (0.4, 0.6, 0.8)
            },
        )
    if not slow:
        return
    there, missing = usable("images", "bm3d", "BM3D")  # not in the extra: see its licence
    yield missing
    if there:
        import bm3d

        yield Method(name="BM3D", run=lambda y: bm3d.bm3d(y, sigma), chosen="its defaults")


def our_methods(bundle: edgeae.Bundle, sigma: float) -> list[Method]:
    """Ours as deployed, told sigma and not."""
    kind = np.float32
    return [
        Method(name=OURS, run=lambda y: edgeae.denoise(bundle, y.astype(kind), sigma=sigma)),
        Method(
            name=f"{OURS}, two views",
            run=lambda y: edgeae.denoise(bundle, y.astype(kind), sigma=sigma, views=2),
            chosen="twice the time",
        ),
        Method(
            name=f"{OURS}, sigma unknown",
            run=lambda y: edgeae.denoise(bundle, y.astype(kind)),
            chosen="estimated from the image",
        ),
    ]


def scores(clean: Image, out: Array) -> dict[str, float]:
    """PSNR, and SSIM where scikit-image is there."""
    found = {"psnr": psnr_db(clean, out)}
    try:
        from skimage.metrics import structural_similarity
    except ImportError:
        return found
    levels = np.clip(np.rint(out), 0, 255)
    found["ssim"] = float(structural_similarity(clean.astype(float), levels, data_range=255))
    return found


def rows(*, quick: bool, slow: bool = True, models: Path = MODELS) -> Iterator[Row]:
    """Every method at every sigma."""
    recipe = load_recipe("denoise-image")
    assert recipe.denoise is not None
    test = grey("test")
    train = grey("train")
    train = [train[i] for i in np.linspace(0, len(train) - 1, TUNED_IMAGES).astype(int)]
    if quick:
        test, train = [x[:64, :64] for x in test[:1]], [x[:64, :64] for x in train[:1]]
    bundle, missing = bundle_of("images", models)
    yield from missing
    told: set[str] = set()
    for sigma in recipe.denoise.test_sigma:
        methods = [Method(name="noisy", run=lambda y: y)]
        for found in classical(sigma, train, slow=slow):
            if isinstance(found, Method):
                methods.append(found)
            else:
                yield from (row for row in found if row[3] not in told)
                told |= {row[3] for row in found}
        methods += our_methods(bundle, sigma) if bundle is not None else []
        for clipped in (False, True):
            for method in methods:
                if clipped and method.name == "BM3D":
                    continue
                yield from measured(sigma, clipped, method, test)


def measured(sigma: float, clipped: bool, method: Method, test: Sequence[Image]) -> Iterator[Row]:
    """Means over the images."""
    found = [
        scores(x, method.run(noisy_image(x, i, sigma, clipped=clipped))) for i, x in enumerate(test)
    ]
    data = "Set12, 8-bit noisy" if clipped else "Set12"
    for metric in found[0]:
        value = mean(f[metric] for f in found)
        unit = "dB" if metric == "psnr" else ""
        yield (
            "images",
            data,
            f"{sigma:g}",
            method.name,
            metric,
            value,
            unit,
            len(test),
            method.note,
        )
        if metric == "psnr":
            say(f"{data}, sigma {sigma:g}: {method.name}: {value:.2f} dB  ({method.note})")
