r"""How many bits about random biographies a model must hold, given how well it predicts them (allenzhu2024capacity).

Steps: 1. `name_bits`, 2. `value_bits`, 3. `diversity_bits`, 4. `capacity_ratio`.

A model's weights together with the code that its predictions define describe the data: names in
``sum_n -log2 q(n) - log2 N!`` bits (their order says nothing and is given back), values in ``sum -log2 q(v | n)`` bits.
Data drawn at random cannot be described, on average, in fewer bits than its entropy. So the weights hold at least the
entropy, ``log2 C(N_0, N) + N K C log2 D``, less the length of that code. How the model was trained
plays no part.

| paper | code | what |
|---|---|---|
| N, N_0 | people, name_pool | names drawn, names that there are |
| K, C, D | attributes, chunks, diversity | attributes a person, chunks a value, choices a chunk |
| T, L | alphabet, length | tokens that a chunk is spelt with, tokens of a chunk |
| p_1, p_2, p_3 | name_loss, value_loss, first_chunk_loss | nats a name, a value, a value's first chunk |
| P | parameters | numbers that were trained |
"""

from __future__ import annotations

from math import inf, isfinite, lgamma, log, log2

from paramem.errors import BadParameter

DEPARTURES = {
    "names": (
        "N log2(N_0 / e^p1), which counts log2 N_0 for each name though names do not repeat",
        "the falling factorial log2(N_0 (N_0 - 1) ... (N_0 - N + 1)) less the loss",
        "exact for every N <= N_0, and our pool of names is small",
    ),
    "negative": (
        "the ratio may fall below zero for a model that is surely wrong",
        "a term below zero counts as zero",
        "weights hold no fewer than no bits; where one term is negative, the other bounds them alone, by a code that "
        "does not ask the model about the first; all of this on average over data, and not for each model",
    ),
}


def name_bits(*, people: int, name_pool: int, name_loss: float) -> float:
    """Bits about which ``people`` of ``name_pool`` names there are; name_loss is in nats a name.

    The first term of Theorem 3.2, with the falling factorial that its proof bounds by ``(N_0 - N)^N``.
    Raises BadParameter when there are more people than names, or the loss is no loss.
    """
    _check_count("people", people)
    if people > name_pool:
        raise BadParameter(
            f"{people} people cannot have different names out of {name_pool}: draw fewer people, or enlarge the pool"
        )
    _check_loss("name_loss", name_loss)
    entropy = (lgamma(name_pool + 1) - lgamma(name_pool - people + 1)) / log(2)
    return max(0.0, entropy - people * name_loss / log(2))


def value_bits(*, people: int, attributes: int, diversity: int, value_loss: float, chunks: int = 1) -> float:
    """Bits about the values of ``people * attributes`` facts of ``diversity ** chunks`` equally likely values each.

    value_loss is in nats a value, averaged over people and attributes. The second term of Theorem 3.2.
    """
    for name, count in {"people": people, "attributes": attributes, "diversity": diversity, "chunks": chunks}.items():
        _check_count(name, count)
    _check_loss("value_loss", value_loss)
    return max(0.0, people * attributes * (chunks * log2(diversity) - value_loss / log(2)))


def diversity_bits(*, attributes: int, diversity: int, alphabet: int, length: int, first_chunk_loss: float) -> float:
    """Bits about which ``diversity`` of ``alphabet ** length`` strings each attribute draws on.

    The third term of Definition 4.1. It is no part of the count for biographies whose values are known beforehand
    (Definition 4.3), as ours are. Raises BadParameter when there are fewer strings than are drawn.
    """
    names = {"attributes": attributes, "diversity": diversity, "alphabet": alphabet, "length": length}
    for name, count in names.items():
        _check_count(name, count)
    if length * log2(alphabet) < log2(diversity):
        raise BadParameter(
            f"{diversity} different chunks cannot be spelt with {length} tokens of {alphabet}: use longer chunks"
        )
    _check_loss("first_chunk_loss", first_chunk_loss)
    a_string = length * log2(alphabet) - log2(diversity) - first_chunk_loss / log(2)
    return max(0.0, attributes * diversity * a_string)


def capacity_ratio(bits: float, parameters: int) -> float:
    """Bits a parameter, R(F) of Definition 4.3. Raises BadParameter for a model without parameters."""
    _check_count("parameters", parameters)
    return bits / parameters


def most_bits(*, people: int, name_pool: int, attributes: int, diversity: int, chunks: int = 1) -> float:
    """What a model that knows everything scores (Corollary 3.3): every name of its own alike, values without loss.

    It says ``people`` names evenly, ``log(people)`` nats each. Raises BadParameter as the counts above do.
    """
    _check_count("people", people)
    names = name_bits(people=people, name_pool=name_pool, name_loss=log(people))
    return names + value_bits(people=people, attributes=attributes, diversity=diversity, chunks=chunks, value_loss=0.0)


def _check_count(name: str, value: int) -> None:
    if value < 1:
        raise BadParameter(f"{name} is {value}: it counts something, so it is at least 1")


def _check_loss(name: str, value: float) -> None:
    if not (isfinite(value) or value == inf) or value < 0:
        raise BadParameter(f"{name} is {value}: a loss is in nats, from 0 for certainty upwards; was it averaged?")
