"""What a masked spectrum is worth to the ear: the terms of a speech denoiser's loss.

Four errors of the masked spectrum, and what each is there for:

- of its compressed magnitude, and of the same with its phase (Braun and Tashev,
  https://arxiv.org/abs/2009.12286): noise is heard in proportion to its logarithm;
- of the plain signal, as a ratio: it learns fastest, and keeps the loud parts right;
- of the envelope of each third of an octave, as one minus its correlation with the truth's over
  384 ms, which is what the measure of intelligibility STOI counts (Taal et al., 2011,
  https://doi.org/10.1109/TASL.2011.2114881): weak syllables count as much as loud ones;
- of the loudness in critical bands, added loudness dearer than missing loudness, after the manner
  of the measure of quality PESQ (ITU-T P.862).

All are computed on bands, where a mask acts; sums over a band's bins are taken once per batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from edgeae.runtime.stft import StftSpec

__all__ = ["Bands", "SpeechLoss", "bands_of"]

COMPRESSION = 0.3
LEVEL = 0.06  # the truth's level in the loss
SMALL = 1e-8

SPECTRAL, ENVELOPE, LOUDNESS = 0.4, 6.0, 1.0  # weights; their gradients are then of one size
MAGNITUDE, PHASED = 70.0, 30.0  # within the spectral error

LOWEST_OCTAVE_HZ, N_OCTAVE_THIRDS = 150.0, 15
ENVELOPE_S = 0.384
ENVELOPE_STEP = 4  # frames between the stretches that are correlated

HEARD_DB = 65.0  # the truth's sound pressure level, pauses included
HALF_BARKS = 0.5
STEVENS = 0.23  # loudness grows with that power of the power
SONES = 0.187
DEAD = 0.25  # share of the softer loudness by which the other may differ unheard
ADDED, ADDED_LEAST, ADDED_MOST = 1.2, 3.0, 12.0
DISTURBANCE_MOST = 45.0
SYMMETRIC, ASYMMETRIC = 0.1, 0.0309


@dataclass(frozen=True)
class Bands:
    """What the loss needs of a batch, summed over the bins of each band: tensors [N, B, K].

    With Y the mixture, S the truth, y and s their magnitudes to the power 0.3, and c the cosine of
    the angle between them, these are the sums of |Y|^2, |S|^2, Re(S Y*), y^2, y s, y s c, s^2;
    the powers were multiplied by ``scale`` [N, 1, 1] first.
    """

    scale: Tensor
    noisy: Tensor
    clean: Tensor
    cross: Tensor
    noisy_small: Tensor
    cross_small: Tensor
    phased_small: Tensor
    clean_small: Tensor


def bands_of(front: StftSpec, clean: Tensor, noisy: Tensor) -> Bands:
    """The sums, from spectra [N, F, K], scaled for the truth to be at ``LEVEL``."""
    (sr, si), (yr, yi) = (torch.view_as_real(v).unbind(-1) for v in (clean, noisy))
    s_power, y_power = sr * sr + si * si, yr * yr + yi * yi
    cross = sr * yr + si * yi
    scale = LEVEL**2 * front.hop / (s_power.mean((1, 2)).view(-1, 1, 1) + SMALL)
    s_power, y_power, cross = s_power * scale, y_power * scale, cross * scale
    s, y = (s_power + SMALL) ** (COMPRESSION / 2), (y_power + SMALL) ** (COMPRESSION / 2)
    both = s * y
    phased = both * cross * torch.rsqrt(s_power * y_power + SMALL**2)

    def summed(x: Tensor) -> Tensor:
        a, b = front.fine, front.fine + 2 * front.double
        two, four = x[:, a:b], x[:, b:]
        return torch.cat(
            [
                x[:, :a],
                two[:, ::2] + two[:, 1::2],
                four[:, ::4] + four[:, 1::4] + four[:, 2::4] + four[:, 3::4],
            ],
            1,
        )

    parts = (y_power, s_power, cross, y * y, both, phased, s * s)
    return Bands(scale, *[summed(part) for part in parts])


class SpeechLoss:
    """The loss of a mask.

    Args:
        front: the front end, whose bands they are.
        rate_hz: of the samples.
        signal: weight of the plain signal's error within the spectral one.
    """

    def __init__(self, front: StftSpec, rate_hz: float, *, signal: float = 1.0) -> None:
        self.front, self.rate_hz, self.signal = front, rate_hz, signal

    def __call__(self, of: Bands, mask: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Loss of a mask [N, B, K] between 0 and 1, and what it is made of."""
        spectral, metrics = self.spectral(of, mask)
        masked = mask * mask * of.noisy
        envelope, loudness = self.envelope(of.clean, masked), self.loudness(of.clean, masked)
        loss = SPECTRAL * spectral + ENVELOPE * envelope + LOUDNESS * loudness
        heard = {"envelope": float(envelope.detach()), "loudness": float(loudness.detach())}
        return loss, {**metrics, **heard}

    def spectral(self, of: Bands, mask: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Error of the compressed spectrum, and of the plain signal."""
        total = mask.shape[0] * mask.shape[2] * self.front.n_bins
        small = (mask + 1e-4) ** COMPRESSION
        square = (small * small * of.noisy_small + of.clean_small).sum()
        magnitude = (square - 2 * (small * of.cross_small).sum()) / total
        phased = (square - 2 * (small * of.phased_small).sum()) / total
        error = (mask * mask * of.noisy - 2 * mask * of.cross + of.clean).sum((1, 2))
        ratio = torch.log10(of.clean.sum((1, 2)) / (error + SMALL) + SMALL).mean()
        loss = MAGNITUDE * magnitude + PHASED * phased - self.signal * ratio
        metrics = {"snr_db": 10 * float(ratio.detach()), "magnitude": float(magnitude.detach())}
        return loss, metrics

    def envelope(self, clean: Tensor, masked: Tensor) -> Tensor:
        """One minus the correlation of the envelopes of two band powers [N, B, K]."""
        frames = max(2, min(round(ENVELOPE_S * self.rate_hz / self.front.hop), clean.shape[2]))
        s, x = (torch.sqrt(self._thirds @ power + 1e-9) for power in (clean, masked))

        def mean(v: Tensor) -> Tensor:
            return F.avg_pool1d(v, frames, ENVELOPE_STEP)

        s_mean, x_mean = mean(s), mean(x)
        s_varies = (mean(s * s) - s_mean * s_mean).clamp_min(0)
        x_varies = (mean(x * x) - x_mean * x_mean).clamp_min(0)
        power = s_varies + s_mean * s_mean
        most = power.amax(2, keepdim=True)
        whole = power.mean(1, keepdim=True)
        # stretches of silence do not count, nor bands where nothing is said
        counts = (whole > 1e-3 * whole.amax(2, keepdim=True)) * (most > 1e-4 * most.amax(1, True))
        floor = 1e-6 * most
        scale = torch.rsqrt((s_varies + floor) * (x_varies + floor) + 1e-12)
        correlation = (mean(s * x) - s_mean * x_mean) * scale
        return 1 - (correlation * counts).sum() / counts.sum().clamp_min(1)

    def loudness(self, clean: Tensor, masked: Tensor) -> Tensor:
        """Disturbance of the loudness of band powers [N, B, K]: what PESQ takes off its best."""
        to_pressure = 10 ** (HEARD_DB / 10) / (LEVEL**2 * self.front.hop * self.front.n_bins)
        reference, found = (self._barks @ p * to_pressure for p in (clean, masked))
        voice = slice(4, 30)  # of the critical bands, some 300 to 3000 Hz
        level = reference[:, voice].sum((1, 2)) / (found[:, voice].sum((1, 2)) + 1)
        found = found * level.clamp(0.25, 4).view(-1, 1, 1)
        wanted, heard = self._sones(reference), self._sones(found)
        differs = heard - wanted
        unheard = DEAD * torch.minimum(heard, wanted).clamp_min(0)
        differs = torch.sign(differs) * F.relu(differs.abs() - unheard) * SONES
        added = ((found + 50) / (reference + 50)) ** ADDED
        added = torch.where(added < ADDED_LEAST, torch.zeros(()), added.clamp(max=ADDED_MOST))
        whole = differs.shape[1] * HALF_BARKS
        both_ways = whole * torch.sqrt((differs * differs).mean(1) + 1e-6)
        one_way = HALF_BARKS * (differs.abs() * added).sum(1)
        soft = ((reference.sum(1) + 1e5) / 1e7) ** 0.04

        def over_time(v: Tensor) -> Tensor:
            frames = (v / soft).clamp(max=DISTURBANCE_MOST)
            return torch.sqrt((frames * frames).mean(1) + 1e-6)

        return (SYMMETRIC * over_time(both_ways) + ASYMMETRIC * over_time(one_way)).mean()

    # -- bands -------------------------------------------------------------------------------------
    @cached_property
    def _hertz(self) -> NDArray[np.float64]:
        """Middle of each band."""
        front = self.front
        bins = np.bincount(front.band_of_bin, np.arange(front.n_bins))
        found: NDArray[np.float64] = bins / np.bincount(front.band_of_bin)
        return found * (self.rate_hz / front.window)

    def _grouped(self, edges: NDArray[np.float64]) -> Tensor:
        """Sums over the bands between neighbouring edges, [groups, B]; empty groups left out."""
        group = np.searchsorted(edges, self._hertz, side="right")
        rows = np.stack([group == i for i in range(1, len(edges))]).astype(np.float32)
        return torch.from_numpy(rows[rows.any(1)])

    @cached_property
    def _thirds(self) -> Tensor:
        """Thirds of an octave."""
        return self._grouped(LOWEST_OCTAVE_HZ * 2 ** ((np.arange(N_OCTAVE_THIRDS + 1) - 0.5) / 3))

    @cached_property
    def _barks(self) -> Tensor:
        """Half critical bands (Traunmueller's scale)."""
        hertz = np.linspace(0, self.rate_hz / 2, 1 << 16)
        barks = 26.81 * hertz / (1960 + hertz) - 0.53
        steps = np.arange(np.interp(60.0, hertz, barks), barks[-1] + 0.01, HALF_BARKS)
        return self._grouped(np.interp(steps, barks, hertz))

    @cached_property
    def _threshold(self) -> Tensor:
        """Power that is just heard in each of them, [groups, 1] (Terhardt's curve)."""
        rows = self._barks.numpy()
        khz = (rows @ self._hertz) / rows.sum(1) / 1000
        db = 3.64 * khz**-0.8 - 6.5 * np.exp(-0.6 * (khz - 3.3) ** 2) + 1e-3 * khz**4
        power = np.minimum(10 ** (db / 10), 1e5).astype(np.float32)
        return torch.from_numpy(power)[:, None]

    def _sones(self, power: Tensor) -> Tensor:
        """Loudness of a power (Zwicker), but for its unit."""
        least = self._threshold
        return (least / 0.5) ** STEVENS * ((0.5 + 0.5 * power / least) ** STEVENS - 1)
