"""The stages of each task, in the order in which a frame meets them.

A prior and its range coder work symbol by symbol in one loop, in C one call, so they are one stage:
how much of it is the net and how much the coder cannot be told apart from outside.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgeae.profiling.recorder import Probe

__all__ = ["REST", "STAGES"]

REST = "rest"
"""What no stage accounts for: cutting frames, calls between the stages."""

_ENCODER, _DECODER = "edgeae.tasks.codec", "edgeae.tasks.frame_decoder"
_LATENT = "latent prior + range coding"
_SAMPLE = "sample prior + range coding"
_CLASSICAL = "classical prediction + range coding"
_CHECKS = "choice and checks"


def _probes(module: str, stages: Mapping[str, str]) -> tuple[Probe, ...]:
    return tuple(Probe(module=module, name=name, stage=stage) for name, stage in stages.items())


STAGES: Mapping[str, Mapping[str, tuple[Probe, ...]]] = {
    "codec": {
        "encode": (
            *_probes(
                _ENCODER,
                {
                    "FrameCodec._to_indices": "samples to indices",
                    "analyse": "analysis net",
                    "symbolize": "symbols",
                    "encode_latents": _LATENT,
                    "synthesise": "synthesis net",
                    "encode_samples": _SAMPLE,
                    "encode_classical": _CLASSICAL,
                    "looks_easy": _CHECKS,
                    "FrameCodec._constant": _CHECKS,
                    "FrameCodec._rmse": _CHECKS,
                    "FrameCodec._choose": _CHECKS,
                },
            ),
            *_probes("edgeae.bitstream.writer", {"StreamPacker.frame": "framing"}),
        ),
        "decode": (
            *_probes(
                "edgeae.bitstream.parser",
                {"FrameParser.feed": "framing", "FrameParser.end_packet": "framing"},
            ),
            *_probes(
                _DECODER,
                {
                    "decode_latents": _LATENT,
                    "synthesise": "synthesis net",
                    "decode_samples": _SAMPLE,
                    "decode_classical": _CLASSICAL,
                    "FrameDecoder._finish": "indices to samples, check",
                    "FrameDecoder._decode_raw": "indices to samples, check",
                },
            ),
        ),
    },
    "denoise": {
        "denoise": (
            *_probes(
                "edgeae.tasks.denoise_samples",
                {
                    "DenoiserSamples.take": "samples to numbers",
                    "DenoiserSamples.scale": "samples to numbers",
                    "DenoiserSamples.unscale": "numbers to samples",
                    "DenoiserSamples.give": "numbers to samples",
                },
            ),
            *_probes(
                "edgeae.runtime.stft",
                {
                    "StftFrontEnd.analyse": "front end, analysis",
                    "StftFrontEnd.synthesise": "front end, synthesis",
                },
            ),
            *_probes(
                "edgeae.runtime.denoise_net",
                {"StreamDenoiseNet.run": "net", "ImageDenoiseNet.run": "net"},
            ),
            *_probes(
                "edgeae.tasks.denoise_images",
                {"ImageDenoiser._levels": "samples to numbers", "_sigmas": "sigma"},
            ),
        ),
    },
}
"""Per task and direction the functions of every stage."""
