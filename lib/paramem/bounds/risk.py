r"""Bounds on the expected risk of a model that was chosen by looking at the data (lotfi2023nonvacuous, section 4).

A model h has the risk r(h, x) on a document x, somewhere in an interval of length ``loss_range``. Seen are m documents,
drawn independently; wanted is the expected risk R(h). What was chosen by looking at them is paid for in bits: a prior
gives h, described in C bits by a code fixed beforehand, the probability 2^-C.

==============  ====================  ===================================================================
paper           code                  meaning
==============  ====================  ===================================================================
R^(h)           ``empirical_risk``    mean risk over the documents that were looked at
Delta           ``loss_range``        length of the interval that a document's risk lies in
log2 1/P(h)     ``complexity_bits``   length of the prefix-free code of everything that was chosen
m               ``m``                 documents that the model was trained on, or could have been
n               ``n``                 documents of these, drawn at random, that the empirical risk is a mean over
delta           ``delta``             probability with which the bound may fail
==============  ====================  ===================================================================

Each function returns an upper bound on R(h) that holds with probability at least 1 - delta over the draw of documents,
for all h at once, and never lies below ``empirical_risk``. Logarithms are natural, bits are turned into nats.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from scipy.optimize import minimize_scalar

from paramem.errors import BadParameter

LEAST_DELTA = 1e-300  # a share of it is still a float
MOST_DOCUMENTS = 2**53  # more are not counted one by one in a float


def prefix_free_bits(compressed_bits: float, extra_bits: float = 0.0) -> float:
    """The length of a self-delimiting code of something compressed into C bits: C + 2 log2 C + c, and ``extra_bits``.

    The two logarithms pay for saying where the code ends (lotfi2023nonvacuous, section 4.1). c = log2(pi^2 / 6), less
    than one bit, makes the prior 2^-length sum to one over all codes of all lengths C = 1, 2, ...: there are 2^C of
    length C, and 1 / C^2 sums to pi^2 / 6. ``extra_bits`` pays for what was searched beside the weights: ceil(log2 k)
    for a choice among k.
    """
    if not 0 <= compressed_bits < math.inf or not 0 <= extra_bits < math.inf:
        raise BadParameter(f"compressed_bits={compressed_bits}, extra_bits={extra_bits}: finite numbers, 0 or more.")
    return compressed_bits + 2 * math.log2(max(compressed_bits, 1.0)) + math.log2(math.pi**2 / 6) + extra_bits


def bits_of_choice(n_choices: int) -> int:
    """What it costs to name one of so many settings that were tried, whole bits."""
    if not 1 <= n_choices < math.inf:
        raise BadParameter(
            f"n_choices={n_choices}: a choice is among one thing at least and finitely many: count what was tried."
        )
    return math.ceil(math.log2(n_choices))


def finite_hypothesis_bound(
    empirical_risk: float, loss_range: float, complexity_bits: float, m: int, delta: float
) -> float:
    """R(h) <= R^(h) + Delta sqrt((log 1/P(h) + log 1/delta) / 2m). Eq. (1), lotfi2023nonvacuous.

    Hoeffding's inequality for one h, and a union over all h that spends the failure probability by the prior.
    """
    _check(empirical_risk, loss_range, complexity_bits, delta, m=m)
    return empirical_risk + loss_range * _deviation(complexity_bits, delta, m)


class Terms(NamedTuple):
    """What a bound adds to the empirical risk: for choosing the model by m documents, for reading its risk off n."""

    model: float
    sample: float


def subsampled_terms(
    loss_range: float, complexity_bits: float, m: int, n: int, delta: float, *, sample_bits: float = 0.0
) -> Terms:
    """The two terms that Eq. (3), lotfi2023nonvacuous, adds to the empirical risk.

    Two things can fail, the m documents and the n draws (with replacement) from them; s = n / (n + m) of delta is spent
    on the first. The second needs no union over models, because the draws come after the training; what is chosen by
    looking at the n draws themselves (alpha, or one of several trained models) is named in ``sample_bits`` and does.
    """
    _check(0.0, loss_range, complexity_bits, delta, m=m, n=n)
    _check(0.0, loss_range, sample_bits, delta)
    if n > m:
        raise BadParameter(f"n={n} documents cannot be a subsample of m={m}: draw at most m.")
    s = n / (n + m)
    model, sample = _deviation(complexity_bits, s * delta, m), _deviation(sample_bits, (1 - s) * delta, n)
    return Terms(loss_range * model, loss_range * sample)


def subsampled_bound(
    empirical_risk: float,
    loss_range: float,
    complexity_bits: float,
    m: int,
    n: int,
    delta: float,
    *,
    sample_bits: float = 0.0,
) -> float:
    """The bound when the empirical risk is a mean over n of the m documents only. Eq. (3), lotfi2023nonvacuous.

    R(h) <= R^^(h) + Delta sqrt((log 1/P(h) + log 1/(s delta)) / 2m) + Delta sqrt(log 1/((1 - s) delta) / 2n), with
    s = n / (n + m). ``sample_bits``: see `subsampled_terms`; 0 is the equation as it stands.
    """
    _check(empirical_risk, loss_range, complexity_bits, delta)
    terms = subsampled_terms(loss_range, complexity_bits, m, n, delta, sample_bits=sample_bits)
    return empirical_risk + (terms.model + terms.sample)


def _deviation(bits: float, delta: float, samples: int) -> float:
    return math.sqrt((bits * math.log(2) - math.log(delta)) / (2 * samples))


def hoeffding_samples(gap: float, delta: float, loss_range: float = 1.0) -> int:
    """How many documents show the risk of a model fixed beforehand up to ``gap``, with probability 1 - delta.

    The n at which Delta sqrt(log(1/delta) / 2n) falls to ``gap``. Raises BadParameter for a gap that no number of
    documents in a float shows.
    """
    _check(0.0, loss_range, 0.0, delta, m=1)
    if not 0 < gap < math.inf:
        raise BadParameter(f"gap={gap}: a positive number.")
    ratio = loss_range / gap  # may be infinite, where a power would raise OverflowError
    documents = ratio * ratio * -math.log(delta) / 2
    if not math.isfinite(documents):
        raise BadParameter(
            f"gap={gap}, loss_range={loss_range}: more documents than a float can count: ask for a larger gap."
        )
    return math.ceil(documents)


def kl_bound(empirical_risk: float, complexity_bits: float, m: int, delta: float) -> float:
    """The largest p with kl(R^(h) || p) <= (log 1/P(h) + log 1/delta) / m, for risks in [0, 1].

    Chernoff's inequality in the place of Hoeffding's: never worse, and much better where the empirical risk is small.
    kl(q || p) is the divergence between coins, monotone in p above q, so bisection finds it.
    """
    _check_unit(empirical_risk, complexity_bits, delta, m)
    allowed = (complexity_bits * math.log(2) - math.log(delta)) / m
    low, high = empirical_risk, 1.0
    while high - low > 1e-15 * max(1.0, high):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (low, middle) if _kl(empirical_risk, middle) > allowed else (middle, high)
    return high


def _kl(q: float, p: float) -> float:
    """KL divergence of a coin that shows heads with q from one with p, nats."""
    heads = q * math.log(q / p) if q > 0 else 0.0
    return heads + ((1 - q) * math.log((1 - q) / (1 - p)) if q < 1 else 0.0)


def mcallester_bound(empirical_risk: float, complexity_bits: float, m: int, delta: float) -> float:
    """R^(h) + sqrt((log 1/P(h) + log(m / delta)) / (2m - 1)), McAllester's bound for risks in [0, 1]."""
    _check_unit(empirical_risk, complexity_bits, delta, m)
    nats = complexity_bits * math.log(2) + math.log(m) - math.log(delta)
    return empirical_risk + math.sqrt(nats / (2 * m - 1))


def convexity_bound(empirical_risk: float, complexity_bits: float, m: int, delta: float) -> float:
    """R^(h) / (1 - lam/2) + (log 1/P(h) + log(2 sqrt(m) / delta)) / (m lam (1 - lam/2)) at its best lam in (0, 2).

    The kl bound relaxed until its minimum has a closed form: for risks in [0, 1].
    """
    _check_unit(empirical_risk, complexity_bits, delta, m)
    nats = complexity_bits * math.log(2) + math.log(2 * math.sqrt(m)) - math.log(delta)
    lam = 2 / (math.sqrt(2 * m * empirical_risk / nats + 1) + 1)
    return empirical_risk / (1 - lam / 2) + nats / (m * lam * (1 - lam / 2))


def catoni_bound(empirical_risk: float, complexity_bits: float, m: int, delta: float, step: float = 1e-4) -> float:
    """Catoni's bound for risks in [0, 1] at its best temperature, which is paid for.

    For a temperature gamma fixed beforehand, R(h) <= (1 - exp(-gamma q / m)) / (1 - exp(-gamma / m)) with
    q = R^(h) + (log 1/P(h) + log 1/delta) / gamma. The temperatures (1 + step)^j share delta in proportion to
    1 / (j + 2)^2; rounding to one of them costs the factor 1 + step.
    """
    _check_unit(empirical_risk, complexity_bits, delta, m)
    if not 0 < step <= 1:
        raise BadParameter(f"step={step}: temperatures grow by the factor 1 + step, above 0 and at most 1.")
    nats = complexity_bits * math.log(2) - math.log(delta)

    def at(log_gamma: float) -> float:
        gamma = math.exp(log_gamma)
        union = 2 * math.log(2 + log_gamma / math.log1p(step))
        q = empirical_risk + (1 + step) * (nats + union) / gamma
        return math.expm1(-gamma * q / m) / math.expm1(-gamma / m)

    best = minimize_scalar(at, bounds=(0, 4 + math.log(m)), method="bounded", options={"xatol": 1e-9})
    return max(float(best.fun), empirical_risk)


def _check_unit(empirical_risk: float, complexity_bits: float, delta: float, m: int) -> None:
    """As `_check`, for the bounds whose theorem is about risks in [0, 1]."""
    _check(empirical_risk, 1.0, complexity_bits, delta, m=m)
    if empirical_risk > 1:
        raise BadParameter(
            f"empirical_risk={empirical_risk}: this bound is for risks between 0 and 1: divide losses by their range."
        )


def _check(empirical_risk: float, loss_range: float, complexity_bits: float, delta: float, **documents: int) -> None:
    """Raises BadParameter naming the first quantity that no theorem here covers."""
    if not LEAST_DELTA <= delta < 1:
        raise BadParameter(
            f"delta={delta}: the probability with which the bound may fail, below 1 and at least {LEAST_DELTA:g}, so "
            "that its shares are floats."
        )
    for name, number in documents.items():
        if not 1 <= number <= MOST_DOCUMENTS:
            raise BadParameter(f"{name}={number}: at least one document, and at most 2^53: give their number.")
    if not 0 <= complexity_bits < math.inf:
        raise BadParameter(f"complexity_bits={complexity_bits}: the length of a code, finite and not negative.")
    if not 0 < loss_range < math.inf:
        raise BadParameter(
            f"loss_range={loss_range}: the loss must be bounded. A negative log-likelihood is not, until predictions "
            "are smoothed: see paramem.bounds.smoothing."
        )
    if not 0 <= empirical_risk < math.inf:
        raise BadParameter(f"empirical_risk={empirical_risk}: a finite mean of losses, 0 or more.")
