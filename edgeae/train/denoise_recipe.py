"""The ``[denoise]`` table of a recipe: the net, the truth it learns from, and the noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgeae.errors import ConfigError
from edgeae.train.noise import NoisePart

__all__ = ["FAMILIES", "TARGETS", "DenoiseRecipe"]

FAMILIES = ("stream", "image", "speech")
TARGETS = ("clean", "noise2noise", "blind-spot")


@dataclass(frozen=True, kw_only=True)
class DenoiseRecipe:
    """A denoiser and its training.

    Attributes:
        family: ``stream`` (causal, over time), ``image`` or ``speech`` (a causal mask over time
            and frequency).
        target: what the net learns from. ``clean``: the data are clean, noise is mixed in.
            ``noise2noise``: the data are noisy; the net sees them with more noise of the same kind
            and aims at them as they are. ``blind-spot``: the data are noisy; the net aims at
            samples that were hidden from it.
        snr_db: smallest and largest signal-to-noise ratio in training.
        test_snr_db: ratios to validate and report at.
        noise: kinds of noise, mixed by their shares.
        highpass_hz: the truth is the recording without what is slower, by a Butterworth filter of
            second order, forth and back; 0: the recording as it is.
        hop: samples that a stream's net takes at a time.
        first: taps of the first layer.
        width: channels of the hidden layers.
        kernel: taps of the dilated layers.
        dilations: of the residual layers, in hops.
        delay: samples of look-ahead.
        depth: hidden layers of an image's net.
        weights: sets of weights that they take in turns; 0: each its own.
        sigma: smallest and largest standard deviation of an image's noise in training, in units of
            its last bit (grey levels).
        test_sigma: standard deviations to validate and report at.
        told: an image's net is told the standard deviation.
        clipped: share of noisy images that are rounded and clipped as a camera would.
        poisson: share of images whose noise is a photon count's: stronger where it is bright.
        salt: share of images with black and white pixels besides.
        input_bits: bits of the input's integers.
        bits: bits of hidden activations.
        out_bits: bits of the output's integers.
        steps: optimizer steps in float.
        batch: crops per step.
        crop: samples (images: pixels a side) per crop, the settling stretch included.
        settle: samples at the head of a crop that do not count, while the net's state fills.
        learning_rate: peak learning rate, cosine to 2 %.
        gain: octaves of random gain of a crop's channels; some are also turned upside down.
        mounting: channels also change places, as if the sensor were mounted otherwise.
        pace: fraction by which the pace of a crop varies, either way.
        offset: offsets of the input that the truth has not, in standard deviations of the data,
            either way: a sensor's zero that differs from device to device.
        leads: strength of random short filters, which make other shapes of the same events.
        coarse: fraction of the float phase in bfloat16, where the processor is faster with it.
        muon: orthogonalised updates (a learning rate of about 0.03), instead of Adam's.
        hold: fraction of the float phase at the peak learning rate, before it falls.
        average: decay per step of the running mean of the weights that is kept; 0: the weights.
        validate_every: optimizer steps between validations.
        patience: validations without progress before stopping early.
    """

    family: str = "stream"
    target: str = "clean"
    snr_db: tuple[float, float] = (0.0, 12.0)
    test_snr_db: tuple[float, ...] = (0.0, 6.0, 12.0)
    noise: tuple[NoisePart, ...] = (NoisePart(kind="white"),)
    highpass_hz: float = 0.0
    hop: int = 4
    first: int = 16
    width: int = 40
    kernel: int = 3
    dilations: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128)
    delay: int = 33
    depth: int = 6
    weights: int = 1
    sigma: tuple[float, float] = (0.0, 55.0)
    test_sigma: tuple[float, ...] = (15.0, 25.0, 50.0)
    told: bool = True
    clipped: float = 0.0
    poisson: float = 0.0
    salt: float = 0.0
    input_bits: int = 12
    bits: int = 11
    out_bits: int = 14
    steps: int = 6000
    batch: int = 16
    crop: int = 4096
    settle: int = 1024
    learning_rate: float = 2e-3
    gain: float = 1.0
    mounting: bool = False
    pace: float = 0.0
    offset: float = 0.0
    leads: float = 0.0
    coarse: float = 0.0
    muon: bool = False
    hold: float = 0.0
    average: float = 0.0
    validate_every: int = 500
    patience: int = 20

    def __post_init__(self) -> None:
        """Check what can be trained."""
        for name, choice, known in (
            ("family", self.family, FAMILIES),
            ("target", self.target, TARGETS),
        ):
            if choice not in known:
                raise ConfigError(f"denoise.{name} is {choice!r}, expected one of {known}")
        for name, (low, high) in (("snr_db", self.snr_db), ("sigma", self.sigma)):
            if low > high:
                raise ConfigError(f"denoise.{name} is {[low, high]}: low, then high")
        if self.offset and not self.highpass_hz:
            raise ConfigError(
                "denoise.offset takes away what the truth still has; set denoise.highpass_hz too"
            )
        if self.first < self.hop:
            raise ConfigError("denoise.first must not be smaller than denoise.hop")
        if self.family != "image" and self.settle >= self.crop:
            raise ConfigError("denoise.settle must be smaller than denoise.crop")
        limits: list[tuple[str, float, float, float]] = [
            ("hop", self.hop, 1, 4096),
            ("width", self.width, 1, 1024),
            ("kernel", self.kernel, 1, 64),
            ("depth", self.depth, 1, 64),
            ("weights", self.weights, 0, 64),
            ("input_bits", self.input_bits, 6, 16),
            ("bits", self.bits, 6, 12),
            ("out_bits", self.out_bits, 6, 20),
            ("steps", self.steps, 1, math.inf),
            ("batch", self.batch, 1, math.inf),
            ("crop", self.crop, 1, math.inf),
            ("pace", self.pace, 0, 0.5),
            ("leads", self.leads, 0, 1),
            ("coarse", self.coarse, 0, 1),
            ("clipped", self.clipped, 0, 1),
            ("poisson", self.poisson, 0, 1),
            ("salt", self.salt, 0, 1),
            ("hold", self.hold, 0, 0.99),
            ("average", self.average, 0, 0.99999),
            ("validate_every", self.validate_every, 1, math.inf),
            ("patience", self.patience, 1, math.inf),
        ]
        limits += [("sigma", s, 0, 255) for s in (*self.sigma, *self.test_sigma)]
        limits += [("dilations", d, 1, 1 << 16) for d in self.dilations]
        for name, value, low, high in limits:
            if not low <= value <= high:
                top = "or more" if high == math.inf else f"to {high:g}"
                raise ConfigError(f"denoise.{name} is {value:g}, expected {low:g} {top}")
