"""Where things are in each family of models: every difference between architectures lives in this file.

    arch = architecture_of(model)
    arch.hook_point(Site("mlp_out", 3))        # which module, and which side of it
    arch.weight(3, "down")                     # parameter name, Parameter, is it stored transposed?

A `Layout` is the plain description of a family (attribute paths); an `Architecture` is a layout bound to one model.
Adding a family means adding a row to `LAYOUTS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from paramem.errors import BadParameter, BadSite, UnsupportedArchitecture

Side = Literal["input", "output", "in_place_input"]
KINDS = (
    "embed",
    "resid_pre",
    "attn_hidden",
    "attn_out",
    "resid_mid",
    "mlp_in",
    "mlp_hidden",
    "mlp_out",
    "resid_post",
)


class Site(NamedTuple):
    """A named place in the forward computation; every state there is `[batch, tokens, width]`.

    Kinds, in the order of computation within a layer:

    - `embed`: the input of layer 0 (token plus learned position embeddings); its layer is 0
    - `resid_pre`: the residual stream entering the layer
    - `attn_hidden`: the heads' outputs side by side, before the output projection, `[.., n_heads * d_head]`
    - `attn_out`: what attention adds to the residual stream
    - `resid_mid`: the stream between attention and MLP (not in parallel-residual families, which have no such state)
    - `mlp_in`: the normalised input of the MLP
    - `mlp_hidden`: the input of the down projection, `[.., d_mlp]` (the "key" of key-value views of the MLP)
    - `mlp_out`: what the MLP adds to the residual stream
    - `resid_post`: the residual stream leaving the layer
    """

    kind: str
    layer: int

    @classmethod
    def parse(cls, text: str) -> Site:
        """`Site.parse("mlp_out.3") == Site("mlp_out", 3)`; raises `BadSite`."""
        kind, _, layer = text.rpartition(".")
        if kind not in KINDS or not layer.isdigit():
            raise BadSite(f"site {text!r} is not of the form kind.layer with kind one of {', '.join(KINDS)}")
        return cls(kind, int(layer))

    def __str__(self) -> str:
        return f"{self.kind}.{self.layer}"


class HookPoint(NamedTuple):
    """A module and the side of it where a site's state passes."""

    module: nn.Module
    side: Side


class WeightRef(NamedTuple):
    """A weight matrix; `transposed` means stored `[in, out]`, not `[out, in]` as `nn.Linear` does."""

    name: str
    parameter: nn.Parameter
    transposed: bool


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Attribute paths of a family, from the model to the body, from the body or from a block to their parts."""

    body: str
    tokens: str
    blocks: str
    attention: str
    mlp: str
    final_norm: str
    attn_norm: str  # in front of attention
    weights: Mapping[str, str]  # role -> path of the linear module inside a block
    positions: str | None = None  # learned position embeddings, in the body
    mlp_norm: str | None = None  # norm in front of the MLP whose input is the residual stream; None when there is none
    qkv: Literal["thirds", "per head"] | None = None  # how the one projection of queries, keys and values is laid out
    transposed: bool = False
    parallel_flag: str | None = None  # config attribute that says whether attention and MLP read the same input
    parallel: bool = False


_LLAMA = Layout(
    body="model",
    tokens="embed_tokens",
    blocks="layers",
    attention="self_attn",
    mlp="mlp",
    final_norm="norm",
    attn_norm="input_layernorm",
    mlp_norm="post_attention_layernorm",
    weights={
        "q": "self_attn.q_proj",
        "k": "self_attn.k_proj",
        "v": "self_attn.v_proj",
        "attn_out": "self_attn.o_proj",
        "gate": "mlp.gate_proj",
        "up": "mlp.up_proj",
        "down": "mlp.down_proj",
    },
)

LAYOUTS: Mapping[str, Layout] = {
    "gpt2": Layout(
        body="transformer",
        tokens="wte",
        positions="wpe",
        blocks="h",
        attention="attn",
        mlp="mlp",
        final_norm="ln_f",
        attn_norm="ln_1",
        mlp_norm="ln_2",
        qkv="thirds",
        transposed=True,  # transformers' Conv1D
        weights={"qkv": "attn.c_attn", "attn_out": "attn.c_proj", "up": "mlp.c_fc", "down": "mlp.c_proj"},
    ),
    "gpt_neox": Layout(
        body="gpt_neox",
        tokens="embed_in",
        blocks="layers",
        attention="attention",
        mlp="mlp",
        final_norm="final_layer_norm",
        attn_norm="input_layernorm",
        mlp_norm="post_attention_layernorm",
        qkv="per head",
        parallel_flag="use_parallel_residual",
        weights={
            "qkv": "attention.query_key_value",
            "attn_out": "attention.dense",
            "up": "mlp.dense_h_to_4h",
            "down": "mlp.dense_4h_to_h",
        },
    ),
    "gptj": Layout(
        body="transformer",
        tokens="wte",
        blocks="h",
        attention="attn",
        mlp="mlp",
        final_norm="ln_f",
        attn_norm="ln_1",
        parallel=True,  # one norm feeds both attention and MLP
        weights={
            "q": "attn.q_proj",
            "k": "attn.k_proj",
            "v": "attn.v_proj",
            "attn_out": "attn.out_proj",
            "up": "mlp.fc_in",
            "down": "mlp.fc_out",
        },
    ),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
}


def _module(root: nn.Module, path: str) -> nn.Module:
    found: nn.Module = attrgetter(path)(root)
    return found


def require_supported(model_type: str | None) -> Layout:
    """The layout of a family; raises `UnsupportedArchitecture`."""
    if model_type is None or model_type not in LAYOUTS:
        raise UnsupportedArchitecture(
            f"model type {model_type!r} has no architecture map; supported are {', '.join(LAYOUTS)}. "
            "Another family is one more row of LAYOUTS in paramem/arch.py."
        )
    return LAYOUTS[model_type]


def architecture_of(model: PreTrainedModel) -> Architecture:
    """Bind the family's layout to a model; raises `UnsupportedArchitecture`."""
    layout = require_supported(model.config.model_type)
    parallel = bool(getattr(model.config, layout.parallel_flag)) if layout.parallel_flag else layout.parallel
    return Architecture(model=model, layout=layout, family=model.config.model_type, parallel=parallel)


@dataclass(frozen=True, kw_only=True, eq=False)
class Architecture:
    """A layout bound to one model. `parallel` families add attention and MLP of one input and have no `resid_mid`."""

    model: PreTrainedModel = field(repr=False)
    layout: Layout = field(repr=False)
    family: str
    parallel: bool

    @property
    def body(self) -> nn.Module:
        """The model without its head."""
        return _module(self.model, self.layout.body)

    @property
    def blocks(self) -> nn.ModuleList:
        return cast(nn.ModuleList, _module(self.body, self.layout.blocks))

    @property
    def tokens(self) -> nn.Embedding:
        return cast(nn.Embedding, _module(self.body, self.layout.tokens))

    @property
    def positions(self) -> nn.Embedding | None:
        path = self.layout.positions
        return cast(nn.Embedding, _module(self.body, path)) if path else None

    @property
    def final_norm(self) -> nn.Module:
        return _module(self.body, self.layout.final_norm)

    @property
    def head(self) -> nn.Module:
        head: nn.Module = self.model.get_output_embeddings()  # type: ignore[no-untyped-call]
        return head

    @property
    def n_layers(self) -> int:
        return len(self.blocks)

    @property
    def n_heads(self) -> int:
        return int(self.model.config.num_attention_heads)

    @property
    def d_model(self) -> int:
        return self.tokens.weight.shape[1]

    @property
    def d_mlp(self) -> int:
        return self.width(Site("mlp_hidden", 0))

    @property
    def vocabulary(self) -> int:
        """The number of logits."""
        return int(cast(Tensor, self.head.weight).shape[0])

    @property
    def kinds(self) -> tuple[str, ...]:
        """The site kinds that exist in this model."""
        return tuple(kind for kind in KINDS if not (self.parallel and kind == "resid_mid"))

    def sites(self, kind: str) -> tuple[Site, ...]:
        """The sites of one kind, by layer."""
        layers = range(1 if kind == "embed" else self.n_layers)
        return tuple(self.check_site(Site(kind, layer)) for layer in layers)

    def check_site(self, site: Site) -> Site:
        """The site itself; raises `BadSite` when this model has no such place."""
        if site.kind not in self.kinds:
            why = " (attention and MLP are parallel)" if site.kind == "resid_mid" and self.parallel else ""
            raise BadSite(f"no site {site} in a {self.family} model{why}; kinds are {', '.join(self.kinds)}")
        last = 0 if site.kind == "embed" else self.n_layers - 1
        if not 0 <= site.layer <= last:
            raise BadSite(f"site {site}: layer must be 0..{last} in this {self.family} model")
        return site

    def width(self, site: Site) -> int:
        """The last axis of a site's states; raises `BadSite`."""
        self.check_site(site)
        if site.kind not in ("attn_hidden", "mlp_hidden"):
            return self.d_model
        ref = self.weight(site.layer, "attn_out" if site.kind == "attn_hidden" else "down")
        return ref.parameter.shape[0 if ref.transposed else 1]

    def linear(self, layer: int, role: str) -> nn.Module:
        """The linear module of a role (`weight` lists them) in a layer; raises `BadParameter`."""
        return _module(self._block(layer), self._path(role))

    def weight(self, layer: int, role: str) -> WeightRef:
        """A weight matrix by role: `down`, `up`, `attn_out`, and `gate`, `q`, `k`, `v` or `qkv` where the family has
        them.

        Raises `BadParameter` for an unknown role or layer.
        """
        parameter = cast(nn.Parameter, self.linear(layer, role).weight)
        name = f"{self.layout.body}.{self.layout.blocks}.{layer}.{self._path(role)}.weight"
        return WeightRef(name, parameter, self.layout.transposed)

    def hook_point(self, site: Site) -> HookPoint:
        """Where to read or replace the state of a site; raises `BadSite`."""
        self.check_site(site)
        block = self._block(site.layer)
        if site.kind in ("embed", "resid_pre"):
            return HookPoint(block, "input")
        if site.kind == "resid_post":
            return HookPoint(block, "output")
        if site.kind == "resid_mid":
            # The norm and the skip connection read the same tensor, so only writing into it reaches both.
            return HookPoint(_module(block, str(self.layout.mlp_norm)), "in_place_input")
        if site.kind in ("attn_hidden", "mlp_hidden"):
            return HookPoint(self.linear(site.layer, "attn_out" if site.kind == "attn_hidden" else "down"), "input")
        module = _module(block, self.layout.attention if site.kind == "attn_out" else self.layout.mlp)
        return HookPoint(module, "input" if site.kind == "mlp_in" else "output")

    @property
    def activation(self) -> str:
        """The name of the MLP's nonlinearity, as `transformers.activations` knows it."""
        config = self.model.config
        return str(getattr(config, "activation_function", None) or config.hidden_act)

    def embed(self, input_ids: Tensor) -> Tensor:
        """`[B, T]` token ids, positions counted from 0, to the input of layer 0 `[B, T, d_model]`."""
        hidden: Tensor = self.tokens(input_ids)
        if self.positions is not None:
            places = torch.arange(input_ids.shape[1], device=input_ids.device)
            hidden = hidden + self.positions(places).to(hidden.device)
        return hidden

    def unembed(self, hidden: Tensor) -> Tensor:
        """Final norm and head: `[..., d_model]` to logits `[..., vocabulary]`."""
        logits: Tensor = self.head(self.final_norm(hidden))
        return logits

    def _block(self, layer: int) -> nn.Module:
        if not 0 <= layer < self.n_layers:
            raise BadParameter(
                f"layer {layer} does not exist: this {self.family} model has layers 0..{self.n_layers - 1}"
            )
        return self.blocks[layer]

    def _path(self, role: str) -> str:
        if role not in self.layout.weights:
            raise BadParameter(f"no weight {role!r} in {self.family}; there are {', '.join(self.layout.weights)}")
        return self.layout.weights[role]
