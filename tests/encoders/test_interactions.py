from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from ssl_pipeline.encoders.interactions import build
from ssl_pipeline.encoders.settings_interactions import InteractionsEncoder
from ssl_pipeline.part import PipelineError

FACTS = {"items": 30}


def encoder_of(facts=FACTS, **settings):
    torch.manual_seed(0)
    encoder = build(InteractionsEncoder.model_validate({"length": 8, "width": 16} | settings), facts)
    with torch.no_grad():  # fresh weights are small: effects would drown in roundings
        for weight in encoder.parameters():
            weight.add_(0.3 * torch.randn(weight.shape))
    return encoder.eval()


def ids(count=5, seed=0):
    encoder = encoder_of()
    return encoder.read(encoder.example(count, torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("causal", [True, False])
def test_a_block_equals_torchs_own(causal):
    encoder = encoder_of(causal=causal, heads=4)
    block = encoder.layers[0]
    theirs = nn.TransformerEncoderLayer(16, 4, 64, 0.0, "gelu", batch_first=True, norm_first=True)
    attention = {"in_proj_weight": block.qkv.weight, "in_proj_bias": block.qkv.bias}
    attention |= {"out_proj.weight": block.out.weight, "out_proj.bias": block.out.bias}
    state = {f"self_attn.{k}": v for k, v in attention.items()}
    for i, linear in ((1, block.mlp[0]), (2, block.mlp[2])):
        norm = block.norm1 if i == 1 else block.norm2
        state |= {f"linear{i}.{k}": v for k, v in linear.state_dict().items()}
        state |= {f"norm{i}.{k}": v for k, v in norm.state_dict().items()}
    theirs.load_state_dict(state)
    x = torch.randn(3, 8, 16)
    visible = torch.ones(8, 8, dtype=torch.bool)
    visible = visible.tril() if causal else visible
    expected = theirs.train()(x, src_mask=~visible)  # in evaluation it takes a fused path of its own
    torch.testing.assert_close(block(x, visible.expand(3, 1, 8, 8)), expected, rtol=1e-4, atol=1e-5)


def test_a_causal_place_sees_nothing_of_what_follows_and_a_bidirectional_one_does():
    items = torch.randint(1, 31, (4, 8))
    changed = items.clone()
    changed[:, 5] = changed[:, 5] % 30 + 1
    for causal in (True, False):
        encoder = encoder_of(causal=causal)
        same = torch.isclose(encoder.hidden(items), encoder.hidden(changed), atol=1e-6).all(2)
        assert same[:, :5].all() == causal and not same[:, 5:].any()


@pytest.mark.parametrize("causal", [True, False])
def test_padding_changes_nothing(causal):
    """The places of a short history are those at the end, whatever stands before them."""
    encoder = encoder_of(causal=causal)
    items = torch.randint(1, 31, (4, 3))
    whole = torch.cat([torch.zeros(4, 5, dtype=torch.long), items], dim=1)
    torch.testing.assert_close(encoder.hidden(whole)[:, 5:], encoder.hidden(items), rtol=1e-4, atol=1e-5)
    empty = encoder(torch.zeros(2, 8, dtype=torch.long))
    assert empty.isfinite().all() and encoder.scores(empty).isfinite().all()


def test_the_embedding_is_the_last_place_or_that_of_a_mask_after_the_history():
    items = ids()
    causal, both = encoder_of(), encoder_of(causal=False)
    assert torch.equal(causal(items), causal.hidden(items)[:, -1])
    masked = torch.cat([items[:, 1:], torch.full((5, 1), 31)], dim=1)
    assert torch.equal(both(items), both.hidden(masked)[:, -1])


def test_scores_are_products_with_the_embeddings_that_are_read():
    encoder = encoder_of()
    hidden = torch.randn(3, 16)
    expected = torch.stack([hidden @ encoder.item.weight[i] for i in range(1, 31)], dim=1)
    torch.testing.assert_close(encoder.scores(hidden), expected)
    assert not any(name.startswith(("head", "out")) for name, _ in encoder.named_parameters())


@pytest.mark.parametrize("causal", [True, False])
def test_export_takes_any_batch(causal):
    encoder = encoder_of(causal=causal)
    batch = torch.export.Dim("batch", min=1)
    exported = torch.export.export(encoder, (ids(2),), dynamic_shapes=({0: batch},)).module()
    for count in (1, 7):
        torch.testing.assert_close(exported(ids(count, seed=3)), encoder(ids(count, seed=3)), rtol=1e-4, atol=1e-5)


def test_features_of_items_reach_what_is_read_and_what_is_scored(tmp_path):
    values = np.random.default_rng(0).normal(size=(32, 3)).astype(np.float32)
    np.save(tmp_path / "item_features.npy", values)
    facts = FACTS | {"item_features": {"dim": 3, "file": "item_features.npy"}}
    encoder = encoder_of(facts | {"folder": str(tmp_path)})
    expected = encoder.item.weight + torch.from_numpy(values) @ encoder.describe.weight.T
    torch.testing.assert_close(encoder.table(), expected)
    # the values travel with the weights: a copy needs no file
    copy = encoder_of(facts)
    assert copy(ids()).isnan().all()
    copy.load_state_dict(encoder.state_dict())
    assert torch.equal(copy(ids()), encoder(ids()))
    with pytest.raises(PipelineError, match="cannot be read"):
        build(InteractionsEncoder(), facts | {"folder": str(tmp_path / "elsewhere")})
    np.save(tmp_path / "item_features.npy", values[:5])
    with pytest.raises(PipelineError, match="not of this pack"):
        build(InteractionsEncoder(), facts | {"folder": str(tmp_path)})


def test_examples_and_what_is_shown():
    encoder = encoder_of({"items": 3, "names": ["Alien", "Brazil", "Casablanca"]})
    batch = encoder.example(500, torch.Generator().manual_seed(0))
    items = batch[encoder.takes]
    assert items.shape == (500, 8) and items.dtype == torch.int32 and items.max() == 3
    lengths = (items > 0).sum(1)
    assert lengths.min() == 1 and lengths.max() == 8 and (items[:, -1] > 0).all()
    assert encoder.show({"items": torch.tensor([[0, 0, 3, -1], [0, 0, 0, 0], [0, 0, 2, 4]])}) == [
        "Casablanca, Alien", "nothing yet", "Brazil, ?"
    ]  # fmt: skip
    assert encoder_of().name(7) == "item 7"


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(ValidationError, match="width 128 is not a multiple of heads 3: set heads to 2"):
        InteractionsEncoder(heads=3)
    assert InteractionsEncoder().packing() == {
        "kind": "interactions",
        "length": 50,
        "causal": True,
    }
