"""Names of draws: what they say, and that nothing else is taken for one."""

from __future__ import annotations

import pytest

from paramem.errors import BadParameter
from paramem.fresh import Fresh, fresh, is_fresh


def test_a_name_says_architecture_and_seed() -> None:
    assert fresh("fresh-gpt2-s0") == Fresh("gpt2", 0)
    assert fresh("fresh-llama-s12") == Fresh("llama", 12)
    assert fresh("fresh-s3") == Fresh(None, 3)


@pytest.mark.parametrize("name", ["gpt2-s0", "fresh-bert-s0", "fresh-gpt2", "fresh-gpt2-s01", "fresh-s-1", "xfresh-s0"])
def test_other_names_are_no_draws(name: str) -> None:
    assert not is_fresh(name)
    with pytest.raises(BadParameter, match="no fresh draw"):
        fresh(name)
