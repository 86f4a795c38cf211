"""Draw what our denoisers do: an ECG, vibration and speech before and after, images in a strip.

    EDGEAE_DATA=... python bench/denoise/draw.py [ecg] [images] [speech] [vibration]

Writes .assets/denoise-*.svg and .png, from the test mixtures of the suite. The photograph is
scikit-image's ``camera``, which is in the public domain.
"""

from __future__ import annotations

import base64
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

import numpy as np
from common import ROOT, Array, bundle_of, say

import edgeae
from edgeae.profiling.traces import png, spectrogram, wave_plot

ASSETS = ROOT / ".assets"
STYLE = """<style>
text { font: 13px system-ui, sans-serif; fill: #20262d }
.was, .back, .truth { fill: none; stroke-width: 1.2; stroke-linejoin: round }
.was { stroke: #8b96a2 } .back { stroke: #c2410c } .truth { stroke: #0f766e }
.peak { fill: #1d4ed8 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6e9ee } .was { stroke: #7d8894 } .back { stroke: #fb923c }
  .truth { stroke: #2dd4bf } .peak { fill: #7ba7ff }
}
</style>"""


def styled(svg: str) -> str:
    """With the colours of a picture that stands alone."""
    head, _, rest = svg.partition(">")
    head = head.replace("role=img", 'role="img"')
    return f"{head}>{STYLE}{quoted(rest)}\n"


def quoted(text: str) -> str:
    """Attributes as XML wants them."""
    import re

    return re.sub(r"(\s)([a-z-]+)=([a-z]+)(?=[\s>/])", r'\1\2="\3"', text)


def ecg(bundle: edgeae.Bundle) -> None:
    """Four seconds at 0 dB, with the R peaks that are found in each."""
    from qrs import r_peaks
    from series import ours, pairs

    from edgeae.train.datasets import load_dataset
    from edgeae.train.recipe import load_recipe

    recipe = load_recipe("denoise-ecg")
    test = load_dataset(recipe.data.source, "test")
    pair = pairs(recipe, test, 0.0, most=2, samples=24_000)[-1]
    rate = test.rate_hz or 360.0
    length = round(4 * rate)
    begin = typical(pair.clean, pair.noisy, length)
    after = ours(bundle)(pair.noisy)
    late = f"{1000 * bundle.denoise.delay_samples / rate:.0f} ms behind"
    rows, marks = [], []
    for title, x, kind in (
        ("with wander, muscle and white noise, 0 dB", pair.noisy, "was"),
        (f"edgeae, live, {late}", after, "back"),
        ("the truth", pair.clean, "truth"),
    ):
        shown = x[begin : begin + length, 0]
        found = r_peaks(x[:, 0], rate) - begin
        rows.append((title, shown, kind))
        marks.append([p / length for p in found if 0 <= p < length])
    svg = wave_plot(rows, words="ECG, noisy, denoised, and the truth", seconds=(0, 4), marks=marks)
    write("denoise-ecg.svg", styled(svg).encode())


def typical(clean: Array, noisy: Array, length: int) -> int:
    """Where a stretch begins whose own ratio of signal to noise is nearest to 0 dB."""
    starts = range(length, len(clean) - length, length // 8)

    def off(begin: int) -> float:
        x, y = clean[begin : begin + length], noisy[begin : begin + length]
        return abs(float(np.log(np.var(x) / np.mean(np.square(y - x)))))

    return min(starts, key=off)


def vibration(bundle: edgeae.Bundle) -> None:
    """One second of one axis at 0 dB."""
    from series import ours, pairs

    from edgeae.train.datasets import load_dataset
    from edgeae.train.recipe import load_recipe

    recipe = load_recipe("denoise-vibration")
    test = load_dataset(recipe.data.source, "test")
    pair = pairs(recipe, test, 0.0, most=2, samples=200)[0]
    after = ours(bundle)(pair.noisy)
    rows = [
        ("with white noise and impulses, 0 dB", pair.noisy[:, 0], "was"),
        ("edgeae, live", after[:, 0], "back"),
        ("the truth", pair.clean[:, 0], "truth"),
    ]
    svg = wave_plot(rows, words="vibration, noisy, denoised, and the truth", seconds=(0, 1))
    write("denoise-vibration.svg", styled(svg).encode())


def speech(bundle: edgeae.Bundle) -> None:
    """Spectrograms of a sentence at 5 dB: noisy, ours, clean."""
    from speech import digits, mixed

    name, clean = next(iter(digits(1).items()))
    (mixture,) = mixed({name: clean}, (5.0,))
    after = edgeae.denoise(bundle, mixture.noisy)
    top = spectrogram(mixture.noisy)[1]
    parts = []
    for number, (title, x) in enumerate(
        (("in noise, 5 dB", mixture.noisy), ("edgeae, live", after), ("the truth", mixture.clean))
    ):
        colours = spectrogram(x[: 3 * 16_000], top_db=top)[0]
        data = base64.b64encode(png(smaller(colours, 2))).decode()
        at = 132 * number
        parts.append(f'<text x="8" y="{at + 13}">{title}</text>')
        parts.append(
            f'<image x="8" y="{at + 18}" width="944" height="108" preserveAspectRatio="none" '
            f'href="data:image/png;base64,{data}"/>'
        )
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 396" role="img">'
        "<title>Three seconds of speech, 0 to 8 kHz: in noise, denoised, and the truth</title>"
        f"{STYLE}{''.join(parts)}</svg>\n"
    )
    write("denoise-speech.svg", svg.encode())


def smaller(colours: Array, factor: int) -> Array:
    """Means of squares of pixels, in fewer colours, which keeps the file small."""
    h, w = (n // factor * factor for n in colours.shape[:2])
    blocks = colours[:h, :w].reshape(h // factor, factor, w // factor, factor, 3)
    return (blocks.mean((1, 3)) / 8).astype(np.uint8) * 8


def images(bundle: edgeae.Bundle) -> None:
    """A part of a photograph: noisy, non-local means, ours, clean."""
    from images import noisy_image
    from skimage import data, restoration

    sigma = 25.0
    whole = data.camera()
    clean = whole[60:260, 130:330]
    noisy = noisy_image(clean, 0, sigma, clipped=True).astype(np.uint8)
    means = restoration.denoise_nl_means(
        noisy.astype(float), 5, 9, 0.6 * sigma, fast_mode=True, sigma=sigma
    )
    after = edgeae.denoise(bundle, noisy, sigma=sigma)
    gap = np.full((len(clean), 6), 255, np.uint8)
    strip: list[Array] = []
    for x in (noisy, means, after, clean):
        strip += [np.clip(np.rint(x), 0, 255).astype(np.uint8), gap]
    write("denoise-image.png", png(np.concatenate(strip[:-1], axis=1)))


def write(name: str, data: bytes) -> None:
    """Into .assets."""
    ASSETS.mkdir(exist_ok=True)
    (ASSETS / name).write_bytes(data)
    say(f".assets/{name}: {len(data) / 1000:.0f} kB")


def main() -> None:
    """Draw those whose bundles are there."""
    drawn = {"ecg": ecg, "images": images, "speech": speech, "vibration": vibration}
    for task in sys.argv[1:] or drawn:
        bundle, _ = bundle_of(task)
        if bundle is not None:
            drawn[task](bundle)


if __name__ == "__main__":
    main()
