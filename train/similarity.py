"""Supervised contrast on any matrix of similarities."""

import torch
from torch import Tensor

TEMPERATURE = 0.1


def same_class(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Masks (B, B) of the pairs of equal class (without the diagonal) and of other class."""
    equal = labels[:, None] == labels[None, :]
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    return equal & ~itself, ~equal


def supcon(
    similarity: Tensor,
    labels: Tensor,
    temperature: float = TEMPERATURE,
    shares: Tensor | None = None,
) -> Tensor:
    """Supervised contrastive loss of a similarity matrix.

    L_i = -1/|P(i)| sum_{p in P(i)} log( exp(s_ip/T) / sum_{a != i} exp(s_ia/T) ), mean over the
    images i that have a positive (Khosla et al. 2020, eq. 2).

    Args:
        similarity: (B, B), larger is nearer; the diagonal is not used.
        labels: (B,) int64.
        temperature: T.
        shares: (B, B) what each pair of other class counts, a mean of 1 over those of an image;
            None: all count alike.

    Returns:
        A scalar; log(B-1) when all similarities are equal, 0 if no image has a positive.
    """
    positive, _ = same_class(labels)
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    scaled = (similarity / temperature).masked_fill(itself, float("-inf"))
    counted = scaled
    if shares is not None:
        counted = scaled + torch.where(positive | itself, 1.0, shares).log()
    log_share = scaled - torch.logsumexp(counted, dim=1, keepdim=True)
    count = positive.sum(1)
    per_image = -log_share.masked_fill(~positive, 0.0).sum(1) / count.clamp_min(1)
    has_positive = count > 0
    return per_image[has_positive].sum() / has_positive.sum().clamp_min(1)
