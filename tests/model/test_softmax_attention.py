"""Softmax attention: whichever way it is computed, the same comes out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.softmax_attention import attend, attention_mask, document_blocks


@settings(deadline=None, max_examples=10)
@given(T=st.integers(1, 300), K=st.sampled_from([1, 2, 4]), seed=st.integers(0, 1000))
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_blocks_that_leave_out_what_nobody_sees_give_what_the_whole_mask_gives(T: int, K: int, seed: int) -> None:
    """Documents kept apart as a GPU's compiled code does it (torch gives no gradients of it on a CPU)."""
    torch.manual_seed(seed)
    query, key, value = torch.randn(2, 4, T, 16), torch.randn(2, K, T, 16), torch.randn(2, K, T, 16)
    documents_BT = (torch.rand(2, T) < 0.05).cumsum(-1)
    whole = attention_mask(T, 0, T, None, documents_BT, query)
    expected = attend(query, key, value, whole, 0.0)
    assert torch.allclose(attend(query, key, value, document_blocks(documents_BT), 0.0), expected, atol=1e-5)


def test_blocks_in_which_nobody_sees_anybody_are_left_out() -> None:
    """Two documents of four blocks each: of 64 blocks 20 are looked at."""
    documents_BT = (torch.arange(1024) // 512)[None]
    blocks = document_blocks(documents_BT)
    assert blocks.kv_num_blocks.sum() + blocks.full_kv_num_blocks.sum() == 2 * (1 + 2 + 3 + 4)  # type: ignore[union-attr]
