"""Tokens to embeddings, and back to other libraries."""

from __future__ import annotations

import copy
import json
import subprocess
import sys

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForMaskedLM, BertModel, ModernBertConfig, ModernBertModel

from ssl_pipeline.encoders import encoder as encoders
from ssl_pipeline.encoders.settings_text import TextEncoder
from ssl_pipeline.encoders.text import build, word_edges
from ssl_pipeline.part import PipelineError
from ssl_pipeline.pretext.packing.tokens import pretrained_config, special_in, train_tokenizer

TEXTS = [
    f"The {a} {b} jumps over {c} lazy dogs; they don't mind."
    for a in ("quick", "slow")
    for b in ("fox", "cat")
    for c in "12"
]
ARCHITECTURES = ["bert", "modernbert"]


@pytest.fixture(scope="module")
def facts():
    tokenizer = train_tokenizer(iter(TEXTS * 3), 320)
    return {
        "vocabulary": tokenizer.get_vocab_size(), "special": special_in(tokenizer)._asdict(), "tokenizer": tokenizer.to_str(),
    }  # fmt: skip


def make(facts, **settings):
    torch.manual_seed(0)
    part = TextEncoder(**{"layers": 4, "width": 32, "heads": 2, "length": 24} | settings)
    return build(part, facts).eval(), part


def tokens_of(facts, texts, length=24):
    tokenizer = Tokenizer.from_str(facts["tokenizer"])
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length)
    return torch.tensor([encoding.ids for encoding in tokenizer.encode_batch(texts)], dtype=torch.uint16)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_equals_transformers_own_forward_and_mean(facts, architecture):
    encoder, _ = make(facts, architecture=architecture, length=200)
    tokens = tokens_of(facts, ["A fox.", " ".join(TEXTS), TEXTS[0]], 200).long()
    mask = (tokens != 0).long()
    encoder.backbone.config._attn_implementation = "sdpa"
    reference = copy.deepcopy(encoder.backbone)
    encoder.backbone.config._attn_implementation = "fastest_on_device"
    hidden = reference(input_ids=tokens, attention_mask=mask).last_hidden_state
    expected = torch.stack([row[: int(n)].mean(0) for row, n in zip(hidden, mask.sum(1), strict=True)])
    torch.testing.assert_close(encoder(tokens), expected, atol=1e-5, rtol=0)
    encoder.pooling = "cls"
    torch.testing.assert_close(encoder(tokens), hidden[:, 0], atol=1e-5, rtol=0)
    blocks = torch.randint(5, encoder.vocabulary, (3, 200))
    plain = reference(input_ids=blocks).last_hidden_state
    torch.testing.assert_close(encoder.hidden(blocks, padded=False), plain, atol=1e-5, rtol=0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_padding_changes_nothing(facts, architecture):
    encoder, _ = make(facts, architecture=architecture)
    batch = {"tokens": tokens_of(facts, ["A fox.", "They don't mind."])}
    read = encoder.read(batch)
    assert read.dtype == torch.int64 and read.shape == (2, 8)
    torch.testing.assert_close(encoder(read), encoder(batch["tokens"].long()), atol=1e-6, rtol=0)
    assert encoder(torch.zeros(1, 24, dtype=torch.long)).isfinite().all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_exports_with_a_dynamic_batch(facts, architecture):
    encoder, _ = make(facts, architecture=architecture)

    class Deployed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, tokens):
            return self.encoder(self.encoder.read({"tokens": tokens}))

    batch = torch.export.Dim("batch", min=1, max=4096)
    example = encoder.example(4)["tokens"]
    program = torch.export.export(Deployed(), (example,), dynamic_shapes={"tokens": {0: batch}}).module()
    for count in (1, 5):
        tokens = encoder.example(count, torch.Generator().manual_seed(count))["tokens"]
        torch.testing.assert_close(program(tokens), encoder(encoder.read({"tokens": tokens})), atol=1e-5, rtol=0)


def test_examples_look_like_documents(facts):
    encoder, _ = make(facts)
    one, two = (encoder.example(50, torch.Generator().manual_seed(3))["tokens"] for _ in range(2))
    assert torch.equal(one, two) and one.dtype == torch.uint16
    for row in one.tolist():
        end = row.index(3)
        assert row[0] == 2 and min(row[1:end]) > 4 and set(row[end + 1 :]) <= {0} and max(row) < encoder.vocabulary


def test_shows_texts(facts):
    encoder, _ = make(facts)
    batch = {"tokens": tokens_of(facts, ["The  Quick fox.", "They don't mind."])}
    assert encoder.show(batch) == ["the quick fox.", "they don't mind."]
    tokens = batch["tokens"].long()
    tokens[0, 2] = 4
    assert encoder.tell(tokens[:1])[0].startswith("the[MASK]") and encoder.tell(tokens[:1])[0].endswith("[SEP]")


def words_of(encoder, text):
    ids = encoder.tokenizer.encode(text, add_special_tokens=False).ids
    words: list[list[int]] = []
    for token, goes_on in zip(ids, encoder.continues(torch.tensor([ids]))[0].tolist(), strict=True):
        if goes_on:
            words[-1].append(token)
        else:
            words.append([token])
    return [said for word in words if (said := encoder.tokenizer.decode(word).strip())]


def test_which_tokens_go_on_with_a_word(facts):
    encoder, _ = make(facts)
    expected = ["foxglove", ",", "na\u00efve", "(", "they", "'", "re", ")", "42x", "7"]
    assert words_of(encoder, "foxglove, na\u00efve (they're) 42x 7") == expected
    pieces = Tokenizer(models.WordPiece({"[UNK]": 0, "fox": 1, "##glove": 2, ",": 3, "##s": 4}, unk_token="[UNK]"))
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    opens, closes = word_edges(pieces, 5)
    assert opens.tolist() == [False, False, True, False, True] and closes.tolist() == [True] * 5


def test_an_encoder_is_read_back(facts, tmp_path, monkeypatch):
    encoder, settings = make(facts)
    monkeypatch.setattr(encoders, "settings_of", TextEncoder.model_validate)
    encoders.save(encoder, settings, facts, tmp_path)
    batch = encoder.example(3)
    again = encoders.load(tmp_path)
    assert torch.equal(again(again.read(batch)), encoder(encoder.read(batch)))
    assert again.show(batch) == encoder.show(batch)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_transformers_opens_it_without_this_package(facts, tmp_path, architecture):
    encoder, _ = make(facts, architecture=architecture)
    encoder.save_extra(tmp_path)
    code = """
import json, sys
from transformers import AutoModel, AutoTokenizer
folder, *texts = sys.argv[1:]
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
inputs = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
mask = inputs["attention_mask"][..., None]
hidden = model(**inputs).last_hidden_state
mean = (hidden * mask).sum(1) / mask.sum(1)
assert not any(name.startswith("ssl_pipeline") for name in sys.modules)
print(json.dumps({"ids": inputs["input_ids"].tolist(), "mean": mean.tolist(), "mask": tokenizer.mask_token}))
"""
    texts = [*TEXTS[:2], "A fox.", " ".join(TEXTS)]
    command = [sys.executable, "-c", code, str(tmp_path / "transformers"), *texts]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    tokens = tokens_of(facts, texts)
    assert said["ids"] == tokens.tolist() and said["mask"] == "[MASK]"
    torch.testing.assert_close(torch.tensor(said["mean"]), encoder(tokens.long()), atol=1e-5, rtol=0)
    assert not list((tmp_path / "transformers").glob("*.bin"))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_starts_from_a_pretrained_folder(facts, tmp_path, architecture):
    pretrained, _ = make(facts, architecture=architecture, length=40)
    pretrained.save_extra(tmp_path)
    folder = str(tmp_path / "transformers")
    settings = TextEncoder(pretrained=folder, length=24)
    with_config = facts | {"config": json.loads(json.dumps(pretrained_config(folder)))}
    encoder = build(settings, with_config).eval()
    batch = encoder.example(3)
    torch.testing.assert_close(encoder(encoder.read(batch)), pretrained(pretrained.read(batch)))
    again = build(settings.model_copy(update={"pretrained": False}), with_config).eval()
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(again(again.read(batch)), encoder(encoder.read(batch)))
    with pytest.raises(PipelineError, match="encoder.length 64 is above the 40 tokens"):
        build(TextEncoder(pretrained=folder, length=64), with_config)


def test_a_masked_language_models_folder_will_do(facts, tmp_path):
    model = BertForMaskedLM(BertConfig(vocab_size=320, hidden_size=32, num_hidden_layers=1, num_attention_heads=2))
    model.save_pretrained(tmp_path)
    encoder = build(TextEncoder(pretrained=str(tmp_path)), facts | {"config": pretrained_config(str(tmp_path))}).eval()
    tokens = torch.randint(5, 320, (2, 9))
    expected = model.bert.eval()(tokens).last_hidden_state.mean(1)
    torch.testing.assert_close(encoder(tokens), expected, atol=1e-5, rtol=0)


def test_folders_that_cannot_be_started_from(facts, tmp_path):
    config = BertConfig(vocab_size=320, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    BertModel(config).save_pretrained(tmp_path / "pickled")
    weights = tmp_path / "pickled" / "model.safetensors"
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "pickled" / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(PipelineError, match="holds no safetensors weights.*pickles are not opened"):
        build(TextEncoder(pretrained=str(tmp_path / "pickled")), facts | {"config": config.to_dict()})
    BertModel(config).save_pretrained(tmp_path / "short")
    deeper = config.to_dict() | {"num_hidden_layers": 2}
    with pytest.raises(PipelineError, match="16 tensors are missing, the first 'encoder.layer.1"):
        build(TextEncoder(pretrained=str(tmp_path / "short")), facts | {"config": deeper})
    with pytest.raises(PipelineError, match="is no transformers folder"):
        pretrained_config(str(tmp_path))
    (tmp_path / "gpt").mkdir()
    (tmp_path / "gpt" / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(PipelineError, match="holds a gpt2, and bert and modernbert are supported"):
        pretrained_config(str(tmp_path / "gpt"))


def test_the_networks_are_as_the_settings_say(facts):
    encoder, _ = make(facts, layers=3, dropout=0.2)
    assert len(encoder.blocks()) == 3 and encoder.dim == 32
    assert (encoder.backbone.config.hidden_dropout_prob, encoder.backbone.config.attention_probs_dropout_prob) == (
        0.2,
        0,
    )
    modern, _ = make(facts, layers=5, architecture="modernbert", dropout=0.2)
    assert isinstance(modern.backbone, ModernBertModel) and len(modern.blocks()) == 5
    assert isinstance(modern.backbone.config, ModernBertConfig) and modern.backbone.config.mlp_dropout == 0.2
    assert torch.equal(make(facts)[0].embeddings, make(facts)[0].embeddings)
