"""Hold one net against another, layer by layer: how far apart they are, where they part, and why.

Two traces of the same input are compared twice. *As run*, each net fed by its own layers, errors
add up from layer to layer. *Alone*, each layer of the other net gets what the reference's layer
got: this shows whose parameters differ.

ReLU nets may scale each channel inside as they like (quantizers do, to fill their integers). Where
two layers agree only up to a factor per channel, they are compared up to it, and marked so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeae.errors import ModelError
from edgeae.importing.measures import reconstruction_score, sqnr_db
from edgeae.importing.trace import Trace, TracedLayer
from edgeae.models.dense import ACTIVATIONS

__all__ = ["Comparison", "LayerComparison", "compare_traces"]

SAME_DB = 60.0  # parameters this close are those of a float32 conversion
SCALED_BELOW_DB = 10.0

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class LayerComparison:
    """Two layers at the same place; None where the nets do not tell.

    Attributes:
        name: of the reference's layer.
        other: of the other net's layer.
        sqnr_db: of the outputs, as run.
        scaled: whether that holds up to a factor per channel only.
        alone_db: of the output with the other's parameters and the reference's input.
        weight_db: of the weights; not told of layers that are scaled.
        bias_db: of the biases; likewise.
        bias_difference: largest difference of a bias.
        own_bias_db: of (the reference's bias less the dense layer's own, folded) against the
            other's bias: high where a conversion lost that bias.
    """

    name: str
    other: str
    sqnr_db: float
    scaled: bool
    alone_db: float | None = None
    weight_db: float | None = None
    bias_db: float | None = None
    bias_difference: float | None = None
    own_bias_db: float | None = None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Outcome.

    Attributes:
        layers: in order; empty where the nets have different layers.
        sqnr_db: of the outputs.
        sqnr_centred_db: the same with the mean of the reference's outputs left out of its power.
        max_abs_difference: of the outputs.
        score: anomaly score of the reference: mean squared error of its reconstruction; None for a
            net that does not reconstruct.
        other_score: of the other net.
        parts_at: name of the layer at which they part; None where they agree.
        reason: in plain words.
    """

    layers: tuple[LayerComparison, ...]
    sqnr_db: float
    sqnr_centred_db: float
    max_abs_difference: float
    score: float | None
    other_score: float | None
    parts_at: str | None
    reason: str

    def to_json(self) -> dict[str, Any]:
        """JSON-able values; 999 dB stands for equal."""
        return {
            key: _plain(value) if key != "layers" else [_plain_all(layer) for layer in value]
            for key, value in asdict(self).items()
        }


def compare_traces(
    reference: Trace, other: Trace, x: npt.NDArray[np.float32], *, min_db: float = SAME_DB
) -> Comparison:
    """Compare two traces of the same input.

    Args:
        reference: the net that counts.
        other: the one held against it.
        x: their input, [N, I].
        min_db: what the outputs, and each layer, must reach to agree.

    Raises:
        ModelError: their outputs have different sizes.
    """
    if reference.output.shape != other.output.shape:
        raise ModelError(
            f"the nets give {reference.output.shape[1]} and {other.output.shape[1]} values, so "
            "they cannot be compared"
        )
    layers = tuple(_layers(reference, other, x))
    total = sqnr_db(reference.output, other.output)
    mean = reference.output.mean(axis=0)
    parts_at, reason = _verdict(layers, total, min_db, len(reference.layers), len(other.layers))
    rebuilds = reference.output.shape == x.shape
    return Comparison(
        layers=layers,
        sqnr_db=total,
        sqnr_centred_db=sqnr_db(reference.output - mean, other.output - mean),
        max_abs_difference=float(np.abs(reference.output - other.output).max()),
        score=reconstruction_score(x, reference.output) if rebuilds else None,
        other_score=reconstruction_score(x, other.output) if rebuilds else None,
        parts_at=parts_at,
        reason=reason,
    )


def _layers(
    reference: Trace, other: Trace, x: npt.NDArray[np.float32]
) -> Iterator[LayerComparison]:
    """One comparison per pair of layers; none where the pairs do not fit."""
    pairs = list(zip(reference.layers, other.layers, strict=False))
    if len(reference.layers) != len(other.layers) or any(
        mine.output.shape != theirs.output.shape for mine, theirs in pairs
    ):
        return
    fed, before = x.astype(np.float64), np.ones(x.shape[1])
    for mine, theirs in pairs:
        db, factor = _up_to_factors(mine.output, theirs.output)
        yield LayerComparison(
            name=mine.name,
            other=theirs.name,
            sqnr_db=db,
            scaled=factor is not None,
            **_parameters(mine, theirs, fed, before, factor),
        )
        fed = mine.output
        before = np.ones(fed.shape[1]) if factor is None else factor


def _up_to_factors(mine: Floats, theirs: Floats) -> tuple[float, Floats | None]:
    """SQNR of two outputs, and the factors per channel where they were needed to reach it."""
    plain = sqnr_db(mine, theirs)
    if plain >= SCALED_BELOW_DB:
        return plain, None
    power = np.sum(theirs**2, axis=0)
    factor: Floats = np.sum(mine * theirs, axis=0) / np.where(power > 0, power, 1.0)
    fitted = sqnr_db(mine, theirs * factor)
    return (fitted, factor) if fitted >= plain + SCALED_BELOW_DB else (plain, None)


def _parameters(
    mine: TracedLayer, theirs: TracedLayer, fed: Floats, before: Floats, factor: Floats | None
) -> dict[str, float | None]:
    """Compare weights and biases, the other's brought to the reference's units.

    Channels that never spoke have no factor; what reads or makes them is left out.
    """
    if (
        mine.weight is None
        or theirs.weight is None
        or mine.bias is None
        or theirs.bias is None
        or theirs.activation is None
        or theirs.activation not in ACTIVATIONS
        or mine.weight.shape != theirs.weight.shape
        or mine.weight.shape[1] != before.size
    ):
        return {}
    after = np.ones(len(mine.bias)) if factor is None else factor
    made, read = after > 0, before > 0
    weight = theirs.weight[:, read] * after[:, None] / before[read]
    bias = theirs.bias * after
    weight_db = sqnr_db(mine.weight[:, read][made], weight[made])
    if weight_db < SCALED_BELOW_DB:  # other units inside, which the outputs do not tell
        return {}
    alone = ACTIVATIONS[theirs.activation](fed[:, read] @ weight.T + bias)
    alone_db = sqnr_db(mine.output[:, made], alone[:, made])
    if factor is not None or np.any(
        before != 1
    ):  # fitted to outputs, it says little of weights that seldom speak
        return {"alone_db": alone_db}
    lost = None
    if mine.own_bias is not None and np.any(mine.own_bias) and np.any(mine.bias - mine.own_bias):
        lost = sqnr_db((mine.bias - mine.own_bias)[made], bias[made])
    return {
        "alone_db": alone_db,
        "weight_db": weight_db,
        "bias_db": sqnr_db(mine.bias[made], bias[made]),
        "bias_difference": float(np.abs(mine.bias - bias)[made].max(initial=0.0)),
        "own_bias_db": lost,
    }


def _verdict(
    layers: tuple[LayerComparison, ...], total: float, min_db: float, mine: int, theirs: int
) -> tuple[str | None, str]:
    if not layers:
        return None if total >= min_db else "output", (
            f"the nets have different layers ({mine} and {theirs}), so only their outputs are "
            f"compared: {total:.1f} dB"
        )
    first = next((layer for layer in layers if layer.sqnr_db < min_db), None)
    if first is None and total < min_db:
        return "output", "every layer agrees, the output does not"
    if first is None:
        return None, f"every layer agrees to {min_db:g} dB or better"
    if total >= min_db:
        least = min(layers, key=lambda layer: layer.sqnr_db)
        inside = f"inside they are furthest apart at {least.name} ({least.sqnr_db:.1f} dB)"
        return None, f"the outputs agree to {total:.1f} dB; {inside}"
    place = f"layer {layers.index(first) + 1} of {len(layers)}, {first.name}"
    reason = f"they part at {place} ({first.sqnr_db:.1f} dB): {_why(first)}"
    worst = min(layers, key=lambda layer: np.inf if layer.alone_db is None else layer.alone_db)
    if worst.alone_db is not None and worst is not first:
        reason += f"; the parameters of {worst.name} alone cost most ({worst.alone_db:.1f} dB)"
    return first.name, reason


def _why(layer: LayerComparison) -> str:
    if layer.scaled:
        return "its channels are scaled and its numbers rounded, as quantizers do"
    if layer.weight_db is None or layer.bias_db is None:
        return "its parameters cannot be compared in the same units"
    if layer.weight_db < SAME_DB:
        return f"the weights differ ({layer.weight_db:.1f} dB), as after quantization or training"
    if layer.bias_db < SAME_DB:
        text = (
            f"the weights are equal ({layer.weight_db:.0f} dB), the biases differ by up to "
            f"{layer.bias_difference:.4g} ({layer.bias_db:.1f} dB)"
        )
        if layer.own_bias_db is not None and layer.own_bias_db >= SAME_DB:
            text += (
                ": by exactly the dense layer's own bias as the normalisation folds it, "
                "bias * gamma / sqrt(variance + epsilon), which the other net lacks "
                f"(without it they agree to {layer.own_bias_db:.0f} dB)"
            )
        return text
    return "the parameters are equal, so its input or its rounding differs"


def _plain(value: Any) -> Any:
    return max(-999.0, min(999.0, value)) if isinstance(value, float) else value


def _plain_all(values: dict[str, Any]) -> dict[str, Any]:
    return {key: _plain(value) for key, value in values.items()}
