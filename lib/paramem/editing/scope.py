"""Whether an input falls in the scope of a stored edit: two small classifiers, learned from edits.

Both read the tokens of an edit's prompt and of an input, and nothing of the model that is edited.

"embedding"  exp(-|e(edit) - e(input)|^2), where e sums learned vectors of the tokens: what two texts share cancels, so
             the distance is that of the words in which they differ. Each text is embedded once.
"cross"      edit and input are read together: every token looks up its counterpart in the other text by one layer of
             attention, what is found is summed, and a small network decides. Costs a pass for every pair.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from paramem.errors import BadParameter
from paramem.interventions.token_rows import drawn, whole

Kind: TypeAlias = Literal["embedding", "cross"]
PAIRS_AT_ONCE = 8192
UNKNOWN = -1e9  # attention to padding
SPREAD = 0.25  # of a token vector's entries before training: any two words are then about 8 apart, squared


class EmbeddingScope(nn.Module):
    """Probability exp(-|e(edit) - e(input)|^2)."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)

    def embed(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Token ids and their mask [N, T] to e [N, width]."""
        return torch.einsum("ntd,nt->nd", self.tokens(ids), mask)

    def logsims(self, edit: tuple[Tensor, Tensor], given: tuple[Tensor, Tensor]) -> Tensor:
        """Log-probability for each pair [N]; never above 0."""
        return -(self.embed(*edit) - self.embed(*given)).square().sum(-1)

    def all_logsims(self, edits: tuple[Tensor, Tensor], inputs: tuple[Tensor, Tensor]) -> Tensor:
        """Log-probability for every input and every edit [inputs, edits]."""
        return -torch.cdist(self.embed(*inputs), self.embed(*edits)).square()


class CrossScope(nn.Module):
    """Probability from tokens of either text and what attention finds for them in the other."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.compare = nn.Sequential(nn.Linear(3 * width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.decide = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, 1))

    def logsims(self, edit: tuple[Tensor, Tensor], given: tuple[Tensor, Tensor]) -> Tensor:
        """Log-probability for each pair [N]."""
        one, other = self.tokens(edit[0]), self.tokens(given[0])
        fits = torch.einsum("nsd,ntd->nst", one, other) / one.shape[-1] ** 0.5
        seen = self._seen(one, fits, other, edit[1], given[1])
        back = self._seen(other, fits.transpose(1, 2), one, given[1], edit[1])
        return nn.functional.logsigmoid(self.decide(torch.cat([seen, back], -1))[:, 0])

    def _seen(self, own: Tensor, fits: Tensor, other: Tensor, own_mask: Tensor, mask: Tensor) -> Tensor:
        """What the tokens of one text find in the other, [N, width]."""
        found = (fits + UNKNOWN * (1 - mask[:, None])).softmax(-1) @ other
        compared = self.compare(torch.cat([own, found, (own - found).abs()], -1))
        return torch.einsum("ntd,nt->nd", compared, own_mask)

    def all_logsims(self, edits: tuple[Tensor, Tensor], inputs: tuple[Tensor, Tensor]) -> Tensor:
        """Log-probability for every input and every edit [inputs, edits], so many pairs at a time."""
        n_edits, n_inputs = len(edits[0]), len(inputs[0])
        rows = torch.arange(n_inputs).repeat_interleave(n_edits)
        columns = torch.arange(n_edits).repeat(n_inputs)
        parts = [
            self.logsims((edits[0][c], edits[1][c]), (inputs[0][r], inputs[1][r]))
            for r, c in zip(torch.split(rows, PAIRS_AT_ONCE), torch.split(columns, PAIRS_AT_ONCE), strict=True)
        ]
        return torch.cat(parts).view(n_inputs, n_edits)


ScopeNetwork: TypeAlias = EmbeddingScope | CrossScope


class ScopeClassifier:
    """A network with the tokenizer whose tokens it reads."""

    def __init__(self, network: ScopeNetwork, tokenizer: PreTrainedTokenizerBase) -> None:
        self.network, self.tokenizer = network, tokenizer

    def read(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids [N, T] and mask [N, T] of texts, without special tokens."""
        rows = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        width = max(1, *(len(row) for row in rows)) if len(rows) > 1 else max(1, len(rows[0]))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        return ids, (torch.arange(width) < torch.tensor([[len(row)] for row in rows])).float()

    @torch.no_grad()
    def probabilities(self, inputs: Sequence[str], edits: Sequence[str]) -> Tensor:
        """Probability that each input is in the scope of each edit, [inputs, edits]."""
        return self.network.all_logsims(self.read(edits), self.read(inputs)).exp()


def new_network(kind: str, vocabulary: int, width: int, seed: int) -> ScopeNetwork:
    """An untrained network; a function of the seed, the global generator is left as it was."""
    if kind not in get_args(Kind):
        raise BadParameter(f"no scope classifier {kind!r}; there are {', '.join(get_args(Kind))}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = EmbeddingScope(vocabulary, width) if kind == "embedding" else CrossScope(vocabulary, width)
    network.tokens.weight.data.copy_(drawn(vocabulary, width, SPREAD, seed))
    return network


def classifier(
    described: Mapping[str, Any], weights: Mapping[str, Tensor], tokenizer: PreTrainedTokenizerBase
) -> ScopeClassifier:
    """The classifier of this description (`kind`, `vocabulary`, `width`, `seed`) and these weights, which may hold only
    the tokens that training saw."""
    network = new_network(described["kind"], described["vocabulary"], described["width"], described["seed"])
    table = network.tokens.weight.detach()
    network.load_state_dict({k: tensor.float() for k, tensor in whole(weights, "tokens.weight", table).items()})
    return ScopeClassifier(network.train(False).requires_grad_(False), tokenizer)
