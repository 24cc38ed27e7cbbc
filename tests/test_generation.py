"""Generation with a cache gives what recomputing every step without one gives, whatever stands beside a prompt."""

from __future__ import annotations

import copy

import pytest
import torch

from families import FAMILIES, make_lm, tokenizer
from paramem.errors import BadParameter
from paramem.generation import Sampling, choose
from paramem.lm import LM

PROMPTS = ["The capital of France is", "Anna", "Ann Berg was born in Lyon and"]


@pytest.fixture(scope="module", params=FAMILIES)
def lm(request: pytest.FixtureRequest) -> LM:
    made, endless = make_lm(request.param), copy.deepcopy(tokenizer())
    made.model.generation_config.eos_token_id = endless.eos_token = None
    return made.with_(tokenizer=endless)


def by_recomputation(lm: LM, prompt: str, n: int) -> list[int]:
    """Greedy tokens from the plain model, every step from the start, no cache, no padding."""
    ids = tokenizer()(prompt)["input_ids"]
    start = len(ids)
    for _ in range(n):
        ids.append(int(lm.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[start:]


def text(prompt: str, new: list[int]) -> str:
    whole = tokenizer().decode(tokenizer()(prompt)["input_ids"] + new, skip_special_tokens=True)
    return whole[len(prompt) :]


def test_greedy_generation_equals_recomputation_alone_and_in_a_batch(lm: LM) -> None:
    expected = [text(prompt, by_recomputation(lm, prompt, 6)) for prompt in PROMPTS]
    assert lm.generate(PROMPTS, max_new_tokens=6) == expected
    assert [lm.generate([prompt], max_new_tokens=6)[0] for prompt in PROMPTS] == expected
    assert len(set(expected)) > 1, "control: the prompts matter"
    assert lm.generate(PROMPTS[0], max_new_tokens=2)[0] != expected[0]


def test_generation_uses_the_cache(lm: LM) -> None:
    widths: list[int] = []
    handle = lm.arch.blocks[0].register_forward_pre_hook(lambda module, args: widths.append(args[0].shape[1]))
    lm.generate([PROMPTS[0]], max_new_tokens=3)
    handle.remove()
    assert widths[1:] == [1] * (len(widths) - 1)


def test_sampling_is_seeded_and_independent_of_the_batch(lm: LM) -> None:
    def sample(prompts: list[str], seed: int) -> list[str]:
        return lm.generate(prompts, max_new_tokens=5, temperature=1.0, top_k=20, seed=seed)

    assert sample(PROMPTS, 1) == sample(PROMPTS, 1)
    assert sample(PROMPTS, 1) != sample(PROMPTS, 2)
    assert sample(PROMPTS, 1) == [sample([prompt], 1)[0] for prompt in PROMPTS]
    twice = sample([PROMPTS[0]] * 4, 1)
    assert len(set(twice)) > 1, "equal prompts get draws of their own"


def test_sampled_frequencies_are_the_probabilities() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]], dtype=torch.float64)
    n, temperature = 4000, 1.7
    sampling = Sampling(temperature=temperature)
    generators = [torch.Generator().manual_seed(seed) for seed in range(n)]
    counts = torch.bincount(choose(logits.expand(n, 4), sampling, generators), minlength=4) / n
    expected = (logits[0] / temperature).softmax(0)
    assert float((counts - expected).abs().max()) < 0.03
    assert float((counts - logits[0].softmax(0)).abs().max()) > 0.05, "control: temperature matters"
    few = choose(logits.expand(n, 4), Sampling(temperature=temperature, top_k=2), generators)
    assert set(few.tolist()) == {0, 1}


def test_a_low_temperature_tends_to_the_greedy_choice() -> None:
    lm = make_lm("gpt2")
    greedy = lm.generate(PROMPTS, max_new_tokens=4)
    assert lm.generate(PROMPTS, max_new_tokens=4, temperature=1e-4) == greedy
    assert lm.generate(PROMPTS, max_new_tokens=4, top_k=1, temperature=1.0) == greedy


def test_stop_texts_and_end_tokens_end_a_continuation(lm: LM) -> None:
    [whole] = lm.generate([PROMPTS[0]], max_new_tokens=6)
    stop = whole[2:4]
    assert lm.generate([PROMPTS[0]], max_new_tokens=6, stop=stop) == [whole.split(stop)[0]]
    assert lm.generate([PROMPTS[0]], max_new_tokens=6, stop=["never to be seen", stop]) == [whole.split(stop)[0]]
    tokens = by_recomputation(lm, PROMPTS[0], 6)
    first = tokens[:2].index(tokens[1])
    lm.model.generation_config.eos_token_id = [tokens[1]]
    try:
        assert lm.generate([PROMPTS[0]], max_new_tokens=6) == [text(PROMPTS[0], tokens[:first])]
    finally:
        lm.model.generation_config.eos_token_id = None


@pytest.mark.parametrize(
    "wrong", [{"max_new_tokens": 0}, {"temperature": -1.0}, {"top_k": 0}, {"stop": ""}, {"stop": ["a", ""]}]
)
def test_bad_parameters_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(BadParameter):
        Sampling(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_padding_makes_no_nan_in_any_type(lm: LM, dtype: torch.dtype) -> None:
    targets = ["Paris"] * len(PROMPTS)
    exact = lm.score(PROMPTS, targets).logprob
    small = LM.of(copy.deepcopy(lm.model).to(dtype), tokenizer())
    assert len(small.generate(PROMPTS, max_new_tokens=3)) == len(PROMPTS)
    found = small.score(PROMPTS, targets).logprob
    bound = {torch.float32: 1e-4, torch.float16: 0.05, torch.bfloat16: 0.5}[dtype]
    torch.testing.assert_close(found.double(), exact, rtol=bound, atol=bound)
