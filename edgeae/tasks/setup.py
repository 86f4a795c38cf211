"""What both halves of the codec know before the first frame: the header, read with its bundle."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeae.bitstream.header import StreamHeader
from edgeae.errors import ModelError, WrongModelError
from edgeae.runtime.any_prior import AnyPrior
from edgeae.runtime.bundle import Bundle
from edgeae.runtime.sample_prior import SamplePrior
from edgeae.signal.lattice import Lattice

__all__ = ["FrameSetup", "Indices", "Samples"]

_MAX_VARIANTS = 4

Samples = NDArray[Any]
Indices = NDArray[np.int32]


class FrameSetup:
    """A stream's header and the model it names.

    Attributes:
        header: everything that both sides must agree on.
        bundle: the model, or None.
        lattice: the grids of the channels.
        priors: the sample priors that serve every channel's step; a frame's variant counts them.
            Behind them stands the first that knows how loud a signal it was made for, again for
            signals 2, 4 and 8 times as loud, as far as variants reach.
        code_priors: likewise those that read the window code.

    Raises:
        WrongModelError: the header names another bundle.
        ModelError: the bundle does not fit the header's signal.
    """

    def __init__(self, header: StreamHeader, bundle: Bundle | None) -> None:
        found = b"" if bundle is None else bundle.fingerprint
        if header.fingerprint != found:
            if not header.fingerprint:
                bundle = None  # coded without a model: any bundle will do, for none is used
            else:
                raise WrongModelError(
                    f"the stream was coded with bundle {header.fingerprint.hex()}, "
                    + ("no bundle was given" if bundle is None else f"this one is {found.hex()}")
                )
        if bundle is not None:
            _check_signal(header, bundle)
        self.header = header
        self.bundle = bundle
        self.lattice = Lattice.of(header.grids)
        self.dtype = np.dtype(header.dtype)
        self.priors = self._matching_priors(False)
        self._family = [
            v for v, p in enumerate(self.priors) if isinstance(p, SamplePrior) and p.most_octaves
        ][:1]  # of variants that are one prior, an octave louder each
        if self._family:
            first = self._first_of_family()
            for octave in range(1, min(first.most_octaves, _MAX_VARIANTS - len(self.priors)) + 1):
                self._family.append(len(self.priors))
                self.priors.append(first.louder(octave))
        self.code_priors = self._matching_priors(True)

    def _matching_priors(self, has_code: bool) -> list[AnyPrior]:
        """The sample priors that serve the stream's steps; a frame's variant counts them."""
        if self.bundle is None:
            return []
        low, high = min(self.header.deltas), max(self.header.deltas)
        pairs = zip(self.bundle.sample_prior_ranges, self.bundle.sample_priors, strict=True)
        return [
            prior
            for spec, prior in pairs
            if spec.has_code == has_code and spec.delta_min <= low and high <= spec.delta_max
        ][:_MAX_VARIANTS]

    def _first_of_family(self) -> SamplePrior:
        prior = self.priors[self._family[0]]
        assert isinstance(prior, SamplePrior)
        return prior

    def variants_for(self, x: Indices) -> set[int]:
        """Return the variants of `priors` that are worth trying on a frame.

        Args:
            x: its grid indices, [G, T, C].
        """
        variants = set(range(len(self.priors)))
        if len(self._family) > 1:
            octave = min(self._first_of_family().octaves(x), len(self._family) - 1)
            below = max(octave - 1, 0)  # a little louder than known is often better known as that
            variants -= set(self._family) - {self._family[octave], self._family[below]}
        return variants

    def segments(self, n_items: int) -> tuple[int, int]:
        """(G, T) of a frame: segments, and samples of one channel in each."""
        if self.header.image_size is None:
            return 1, n_items
        height, width = self.header.image_size
        return n_items, height * width

    def values_of(self, flat: Indices) -> Samples:
        """Samples at flat indices, in the stream's dtype."""
        rows = flat.reshape(-1, self.header.channels)
        return self.lattice.to_values(rows, self.dtype).reshape(-1)

    def shaped(self, samples: Samples, n_items: int) -> Samples:
        """Flat samples as [n, C] or [n, H, W, C]."""
        return samples.reshape(n_items, *(self.header.image_size or ()), self.header.channels)

    def model(self) -> Bundle:
        """The bundle, or a ModelError."""
        if self.bundle is None:
            raise ModelError("this stream has no model, so no window code: give a bundle")
        return self.bundle


def _check_signal(header: StreamHeader, bundle: Bundle) -> None:
    spec = bundle.signal
    size = None
    if spec.is_image and spec.height is not None and spec.width is not None:
        size = (spec.height, spec.width)
    if (spec.channels, size) != (header.channels, header.image_size):
        raise ModelError(
            f"bundle {bundle.name!r} is made for {_signal_words(spec.channels, size)}, "
            f"the stream has {_signal_words(header.channels, header.image_size)}"
        )


def _signal_words(channels: int, size: tuple[int, int] | None) -> str:
    word = f"{channels} channel" + ("s" if channels != 1 else "")
    return word if size is None else f"images of {size[0]} x {size[1]} pixels, {word}"
