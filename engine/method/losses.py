"""The two losses of the method, one value an image. Source: FALCO, sections 3.2 and 3.3."""

from __future__ import annotations

from torch import Tensor


def identity_cosine(embedding: Tensor, reference: Tensor) -> Tensor:
    """Cosine [N] between unit-length embeddings [N, D]."""
    return (embedding * reference).sum(dim=-1)


def identity_loss(cosine: Tensor, margin: float) -> Tensor:
    """Distance [N] of the identity cosine [N] from the wanted one: 0 asks for unrelated identities."""
    return (cosine - margin).abs()


def attribute_loss(tokens: Tensor, reference: Tensor) -> Tensor:
    """Distance [N] of token features [N, T, C]: mean absolute difference over C, summed over the T tokens."""
    return (tokens - reference).abs().mean(dim=2).sum(dim=1)
