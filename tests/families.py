"""Tiny random models of every supported family, with a tokenizer made on the spot: nothing is downloaded.

Norms and biases are perturbed, so that a model whose parts are taken for one another gives other numbers.
"""

from __future__ import annotations

from functools import cache

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from paramem.models import LM

D_MODEL, D_MLP, LAYERS, HEADS, CONTEXT = 24, 40, 3, 4, 48

CONFIGS: dict[str, dict[str, object]] = {
    "gpt2": {"model_type": "gpt2", "n_inner": D_MLP},
    "gpt_neox": {"model_type": "gpt_neox", "use_parallel_residual": True, "intermediate_size": D_MLP},
    "gpt_neox-sequential": {"model_type": "gpt_neox", "use_parallel_residual": False, "intermediate_size": D_MLP},
    "gptj": {"model_type": "gptj", "n_inner": D_MLP, "rotary_dim": 4},
    "llama": {"model_type": "llama", "intermediate_size": D_MLP, "num_key_value_heads": 2, "mlp_bias": True},
    "mistral": {"model_type": "mistral", "intermediate_size": D_MLP, "num_key_value_heads": 2, "head_dim": 6},
    "mistral-window": {
        "model_type": "mistral",
        "intermediate_size": D_MLP,
        "num_key_value_heads": 2,
        "head_dim": 6,
        "sliding_window": 3,
    },
    "qwen2": {"model_type": "qwen2", "intermediate_size": D_MLP, "num_key_value_heads": 2},
    "qwen2-window": {
        "model_type": "qwen2",
        "intermediate_size": D_MLP,
        "num_key_value_heads": 2,
        "use_sliding_window": True,
        "sliding_window": 3,
        "max_window_layers": 1,
    },
    "qwen3": {"model_type": "qwen3", "intermediate_size": D_MLP, "num_key_value_heads": 2, "head_dim": 8},
}
FAMILIES = tuple(CONFIGS)
PARALLEL = ("gpt_neox", "gptj")


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE in which frequent words are one piece and names are several; adds `<s>` in front."""
    from tokenizers.trainers import BpeTrainer

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=330,
        special_tokens=["<pad>", "<s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    text = ["The capital of France is Paris and Ann was born in Lyon .", "music is in the company of Anna"] * 20
    backend.train_from_iterator(text, trainer)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="<s>", pad_token="<pad>")


def make_model(family: str, *, seed: int = 0, dtype: torch.dtype = torch.float64, **changes: object) -> PreTrainedModel:
    """A random model whose norms, biases and weights are all far from their initial values."""
    config = AutoConfig.for_model(
        **{
            "vocab_size": len(tokenizer()),
            "hidden_size": D_MODEL,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "max_position_embeddings": CONTEXT,
            "bos_token_id": 1,
            "eos_token_id": 1,
            "pad_token_id": 0,
            "tie_word_embeddings": False,
            **CONFIGS[family],
            **changes,
        }
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def make_lm(family: str, **changes: object) -> LM:
    """A random model of a family, wrapped."""
    return LM.of(make_model(family, **changes), tokenizer(), name=f"tiny-{family}")  # type: ignore[arg-type]
