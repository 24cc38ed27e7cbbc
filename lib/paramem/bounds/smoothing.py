r"""Predictions mixed with guessing, so that a document's loss is bounded (lotfi2023nonvacuous, section 4.3).

p_h(x_i | x_<i) = (1 - alpha) p_theta(x_i | x_<i) + alpha / V, Eq. (2), with V the size of the vocabulary. The bits per
token of a document then lie between log2(V / alpha) - Delta and log2(V / alpha), with Delta = log2(1 + (1 - alpha) V /
alpha): a larger alpha narrows the interval and worsens the predictions. alpha may be chosen by looking at the data; the
choice costs bits, once.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from paramem.bounds.risk import bits_of_choice, finite_hypothesis_bound, subsampled_bound
from paramem.errors import BadInput, BadParameter

# Down to 1e-6, four a decade, and up to nearly guessing, where bounds from few documents end: 32 values, five bits.
ALPHAS = (0.99, 0.98, 0.96, 0.93, 0.89, 0.84, 0.75, 0.65, *(10.0 ** (-k / 4) for k in range(1, 25)))


class Interval(NamedTuple):
    """Bits per token of any document: lowest, highest."""

    low: float
    high: float

    @property
    def length(self) -> float:
        """Delta, the ``loss_range`` of the bounds."""
        return self.high - self.low


def smoothed_interval(alpha: float, vocabulary: int) -> Interval:
    """Between which bits per token every document lies under smoothed predictions. Section 4.3, lotfi2023nonvacuous."""
    _check(alpha, vocabulary)
    highest = math.log2(vocabulary / alpha)
    return Interval(highest - math.log2(1 + (1 - alpha) * vocabulary / alpha), highest)


def smoothed_bits(logprobs: Tensor, alpha: float, vocabulary: int) -> Tensor:
    """-log2 of the smoothed probability of each token, of the shape of ``logprobs`` (natural logarithms)."""
    _check(alpha, vocabulary)
    return -torch.log2((1 - alpha) * logprobs.double().exp() + alpha / vocabulary)


def document_means(values: Tensor, lengths: Tensor) -> Tensor:
    """Mean of each document's values, (documents,), float64.

    values: of all tokens, document after document, (tokens,). lengths: how many each document has, (documents,).
    """
    _check_documents(values, lengths)
    return _sums(values.double(), lengths) / lengths.cpu()


def _check_documents(values: Tensor, lengths: Tensor) -> None:
    if not len(lengths):
        raise BadInput("no documents: the empirical risk is a mean over at least one.")
    if not bool((lengths > 0).all()):
        raise BadInput(f"document {int(lengths.argmin())} has no token.")
    if values.shape != (int(lengths.sum()),):
        raise BadInput(f"values of shape {tuple(values.shape)} for documents of {int(lengths.sum())} tokens in all.")


def _sums(values: Tensor, lengths: Tensor) -> Tensor:
    """Sum over each document, (documents,): adding up a run of numbers is three times as fast as scattering them."""
    starts = (lengths.cumsum(0) - lengths).cpu().numpy()
    return torch.from_numpy(np.add.reduceat(values.cpu().numpy(), starts))


def bits_per_dimension(logprobs: Tensor, lengths: Tensor, alpha: float, vocabulary: int) -> Tensor:
    """BPD(h, X) of each document, (documents,): its smoothed bits divided by its length. Section 4.3.

    logprobs: natural log-probabilities of all tokens, document after document, (tokens,). lengths: (documents,).
    """
    return document_means(smoothed_bits(logprobs, alpha, vocabulary), lengths)


def mean_bits(logprobs: Tensor, lengths: Tensor, alphas: Sequence[float], vocabulary: int) -> list[float]:
    """The mean of `bits_per_dimension` over documents, for each alpha: probabilities and weights are made once."""
    _check_documents(logprobs, lengths)
    weights = torch.repeat_interleave(1 / (len(lengths) * lengths.double().cpu()), lengths.cpu())
    probable, found = logprobs.double().cpu().exp(), []
    for alpha in alphas:
        _check(alpha, vocabulary)
        mixed = probable.mul(1 - alpha).add_(alpha / vocabulary)
        found.append(-float(mixed.log2_() @ weights))
    return found


class SmoothedBound(NamedTuple):
    """The best bound over the alphas that were tried.

    bound           on the expected bits per token of a document
    empirical_risk  mean bits per token of the documents looked at, smoothed
    vacuous         whether guessing, log2 V bits, is no worse than the bound
    """

    bound: float
    alpha: float
    empirical_risk: float
    loss_range: float
    vacuous: bool


def best_smoothed_bound(
    logprobs: Tensor,
    lengths: Tensor,
    vocabulary: int,
    complexity_bits: float,
    m: int,
    delta: float,
    *,
    alphas: Sequence[float] = ALPHAS,
    subsample: bool = True,
    sample_bits: float = 0.0,
) -> SmoothedBound:
    """The bound of Eq. (3) (or Eq. (1), where all m documents were looked at) with the alpha that makes it smallest.

    Naming one of the alphas costs ceil(log2 k) bits; they are added here, once, and must not stand in
    ``complexity_bits``. Because alpha is chosen by looking at the subsample, the term for it is a union over the alphas
    too. subsample: the documents are draws from the m, not all of them. sample_bits: what else was chosen by looking at
    the subsample.
    """
    choice, n = bits_of_choice(len(alphas)), len(lengths)
    if not subsample and n != m:
        raise BadInput(f"{n} documents are given, and m={m}: give all of them, or say that they are a part.")
    found = []
    for alpha, risk in zip(alphas, mean_bits(logprobs, lengths, alphas, vocabulary), strict=True):
        length = smoothed_interval(alpha, vocabulary).length
        bits = complexity_bits + choice
        if subsample:
            bound = subsampled_bound(risk, length, bits, m, n, delta, sample_bits=sample_bits + choice)
        else:
            bound = finite_hypothesis_bound(risk, length, bits, m, delta)
        found.append(SmoothedBound(bound, alpha, risk, length, bound >= math.log2(vocabulary)))
    return min(found)


def _check(alpha: float, vocabulary: int) -> None:
    if not 0 < alpha < 1:
        raise BadParameter(
            f"alpha={alpha}: the share of guessing in a prediction, between 0 and 1. Without smoothing (0) the loss is "
            "unbounded and no bound follows."
        )
    if not 2 <= vocabulary < math.inf:
        raise BadParameter(f"vocabulary={vocabulary}: at least two tokens, and finitely many: give their number.")
    if alpha / vocabulary < sys.float_info.min:
        raise BadParameter(
            f"alpha={alpha} over a vocabulary of {vocabulary}: what guessing gives a token is too small for a float: "
            f"take an alpha of {vocabulary * sys.float_info.min:g} or more."
        )
