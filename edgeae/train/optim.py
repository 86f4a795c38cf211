"""Muon: momentum whose every update is made orthogonal, for the weights of convolutions.

A weight [O, I, k, k] is taken as the matrix [O, I * k * k]. Its momentum is replaced by the nearest
matrix whose singular values are all about one, so that rare directions learn as fast as common
ones. What is no matrix (biases) or stands at the output is left to Adam.

References:
    Jordan et al.: Muon: An optimizer for hidden layers in neural networks,
    https://kellerjordan.github.io/posts/muon: the five steps and their coefficients.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Muon", "orthogonalised"]

ADAM_SHARE = 0.06  # Adam's learning rate, beside Muon's
MOMENTUM, DECAY = 0.95, 0.99
NEWTON_STEPS = 5
NEWTON = (3.4445, -4.7750, 2.0315)


def orthogonalised(matrix: Tensor) -> Tensor:
    """The matrix [O, K] with its singular values moved to about one (0.7 to 1.2).

    Example:
        >>> torch.manual_seed(0).initial_seed()
        0
        >>> values = torch.linalg.svdvals(orthogonalised(torch.randn(4, 9)))
        >>> bool(((values > 0.6) & (values < 1.3)).all())
        True
    """
    a, b, c = NEWTON
    x = matrix / (matrix.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.T
    for _ in range(NEWTON_STEPS):
        gram = x @ x.T
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    out: Tensor = x.T if tall else x
    return out


class Muon(torch.optim.Optimizer):
    """Muon for the convolutions' weights, Adam for the rest.

    Args:
        parameters: of a net, in order; the last weight with more than one dimension is taken to be
            the output's and goes to Adam.
        lr: learning rate of Muon: about the change of a weight matrix's norm per step. Adam's is
            0.06 of it.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float) -> None:
        every = list(parameters)
        matrices = [p for p in every if p.dim() > 1][:-1]
        chosen = {id(p) for p in matrices}
        groups = [
            {"params": matrices, "orthogonal": True},
            {"params": [p for p in every if id(p) not in chosen], "orthogonal": False},
        ]
        super().__init__([g for g in groups if g["params"]], {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update from the gradients."""
        if closure is not None:
            raise ValueError("Muon takes no closure")
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                if group["orthogonal"]:
                    self._orthogonal(p, p.grad, group["lr"])
                else:
                    self._adam(p, p.grad, group["lr"] * ADAM_SHARE)

    def _orthogonal(self, p: Tensor, gradient: Tensor, lr: float) -> None:
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(p)
            state["length"] = p.norm()
        momentum = state["momentum"]
        momentum.lerp_(gradient, 1 - MOMENTUM)
        ahead = gradient.lerp(momentum, MOMENTUM).flatten(1)
        tall = max(1.0, ahead.shape[0] / ahead.shape[1]) ** 0.5
        p.add_(orthogonalised(ahead).view_as(p), alpha=-lr * tall)
        p.mul_(state["length"] / p.norm())

    def _adam(self, p: Tensor, gradient: Tensor, lr: float) -> None:
        state = self.state[p]
        if not state:
            state["step"] = torch.zeros(())
            state["mean"], state["square"] = torch.zeros_like(p), torch.zeros_like(p)
        state["step"] += 1
        n = float(state["step"])
        state["mean"].lerp_(gradient, 0.1)
        state["square"].lerp_(gradient.square(), 1 - DECAY)
        mean = state["mean"] / (1 - 0.9**n)
        square = state["square"] / (1 - DECAY**n)
        p.addcdiv_(mean, square.sqrt().add_(1e-8), value=-lr)
