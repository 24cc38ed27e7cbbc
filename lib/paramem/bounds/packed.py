"""A small GPT-2 or Llama as a function of its weights, run on the tokens that documents have and on no padding.

    rows = Packed.of(batch)                  # where the tokens are, and which follow them
    logits(lm, weights, rows)                # (tokens, V): every token but the last of each document

The function is that of the transformers module, whose wrappers take as long as a small model's products; and a quarter
of a batch of documents of unlike lengths is padding. Attention alone is run on padded rows. `supports` says for which
models this holds; the others go through their module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from paramem.models import LM
from paramem.tokens import Batch


@dataclass(frozen=True, eq=False)
class Packed:
    """Documents without their padding.

    ids, targets  tokens that are read, and those that follow them, document after document, (N,)
    places        of the tokens in the padded rows, flattened, (N,)
    rows, length  of these padded rows
    """

    ids: Tensor
    targets: Tensor
    places: Tensor
    rows: int
    length: int

    @classmethod
    def of(cls, batch: Batch) -> Packed:
        """All tokens but the last of each document are read; all but the first are predicted."""
        rows, length = batch.input_ids.shape[0], batch.input_ids.shape[1] - 1
        columns = torch.arange(length, device=batch.input_ids.device)
        places = (columns < batch.lengths[:, None] - 1).flatten().nonzero()[:, 0]
        ids, targets = batch.input_ids[:, :-1].flatten()[places], batch.input_ids[:, 1:].flatten()[places]
        return cls(ids, targets, places, rows, length)

    def padded(self, x: Tensor) -> Tensor:
        """Rows (N, width) among zeros, (rows, length, width)."""
        whole = x.new_zeros(self.rows * self.length, x.shape[-1]).index_copy(0, self.places, x)
        return whole.view(self.rows, self.length, -1)

    def unpadded(self, x: Tensor) -> Tensor:
        """The inverse: (rows, length, width) to (N, width)."""
        return x.reshape(self.rows * self.length, -1).index_select(0, self.places)


def supports(lm: LM) -> bool:
    """Whether `logits` computes what the model's own module does."""
    config: Any = lm.model.config
    if lm.model.training or config.model_type not in ("gpt2", "llama"):
        return False
    if config.model_type == "gpt2":
        plain = config.scale_attn_weights and not config.scale_attn_by_inverse_layer_idx
        return plain and config.activation_function in ("gelu_new", "gelu_pytorch_tanh")
    heads = config.num_key_value_heads == config.num_attention_heads
    return heads and config.hidden_act == "silu" and not config.attention_bias and not config.mlp_bias


def logits(lm: LM, parameters: Mapping[str, Tensor], weights: Mapping[str, Tensor], rows: Packed) -> Tensor:
    """Logits (N, V) of the tokens that follow, with ``weights`` in the place of the model's own ``parameters`` of these
    names. A head that is tied to the embedding is moved with it, unless it is among the weights itself."""

    def weight(name: str) -> Tensor:
        return weights[name] if name in weights else parameters[name]

    config: Any = lm.model.config
    run = _gpt2 if config.model_type == "gpt2" else _llama
    embedding = "transformer.wte.weight" if config.model_type == "gpt2" else "model.embed_tokens.weight"
    tied = config.tie_word_embeddings and "lm_head.weight" not in weights
    return F.linear(run(lm, weight, rows), weight(embedding if tied else "lm_head.weight"))


def _attended(q: Tensor, k: Tensor, v: Tensor, rows: Packed) -> Tensor:
    """What the heads mix, (N, width), of queries, keys and values (rows, heads, length, size).

    Written out: on rows this short forward and backward of the fused kernel take up to a third longer.
    """
    q, k, v = (each.reshape(-1, *each.shape[2:]) for each in (q, k, v))
    future = torch.full((rows.length, rows.length), -torch.inf, dtype=q.dtype, device=q.device).triu(1)
    weight = torch.baddbmm(future.expand(len(q), -1, -1), q, k.mT, alpha=q.shape[-1] ** -0.5).softmax(-1)
    return rows.unpadded((weight @ v).view(rows.rows, -1, *v.shape[1:]).transpose(1, 2))


def _gpt2(lm: LM, weight: Callable[[str], Tensor], rows: Packed) -> Tensor:
    config: Any = lm.model.config
    width, eps = (config.n_embd,), config.layer_norm_epsilon

    def linear(name: str, x: Tensor) -> Tensor:
        return torch.addmm(weight(f"{name}.bias"), x, weight(f"{name}.weight"))

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, width, weight(f"{name}.weight"), weight(f"{name}.bias"), eps)

    positions = rows.places % rows.length
    x = F.embedding(rows.ids, weight("transformer.wte.weight")) + weight("transformer.wpe.weight")[positions]
    for layer in range(config.n_layer):
        block = f"transformer.h.{layer}"
        qkv = rows.padded(linear(f"{block}.attn.c_attn", norm(f"{block}.ln_1", x)))
        q, k, v = qkv.view(rows.rows, rows.length, 3, config.n_head, -1).permute(2, 0, 3, 1, 4)
        x = x + linear(f"{block}.attn.c_proj", _attended(q, k, v, rows))
        hidden = F.gelu(linear(f"{block}.mlp.c_fc", norm(f"{block}.ln_2", x)), approximate="tanh")
        x = x + linear(f"{block}.mlp.c_proj", hidden)
    return norm("transformer.ln_f", x)


def _llama(lm: LM, weight: Callable[[str], Tensor], rows: Packed) -> Tensor:
    config: Any = lm.model.config
    width, heads, eps = (config.hidden_size,), config.num_attention_heads, config.rms_norm_eps

    def norm(name: str, x: Tensor) -> Tensor:
        return F.rms_norm(x, width, weight(f"{name}.weight"), eps)

    x = F.embedding(rows.ids, weight("model.embed_tokens.weight"))
    positions = torch.arange(rows.length, device=x.device)[None]
    cos, sin = cast(Any, lm.model).model.rotary_emb(x, positions)  # (1, length, size)
    for layer in range(config.num_hidden_layers):
        block = f"model.layers.{layer}"
        inside = norm(f"{block}.input_layernorm", x)
        parts = [F.linear(inside, weight(f"{block}.self_attn.{name}_proj.weight")) for name in "qkv"]
        qkv = rows.padded(torch.cat(parts, dim=-1))
        q, k, v = qkv.view(rows.rows, rows.length, 3, heads, -1).permute(2, 0, 3, 1, 4)
        mixed = _attended(_turned(q, cos, sin), _turned(k, cos, sin), v, rows)
        x = x + F.linear(mixed, weight(f"{block}.self_attn.o_proj.weight"))
        inside = norm(f"{block}.post_attention_layernorm", x)
        gate, up = (F.linear(inside, weight(f"{block}.mlp.{name}_proj.weight")) for name in ("gate", "up"))
        x = x + F.linear(F.silu(gate) * up, weight(f"{block}.mlp.down_proj.weight"))
    return norm("model.norm", x)


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions, halves paired."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], dim=-1) * sin
