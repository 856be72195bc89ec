"""Make tiny sentence encoders with random weights, and what they must answer.

Each directory under OUT has the files of a real one (config.json, weights,
tokenizer.json, modules.json, sentence_bert_config.json, 1_Pooling) at hidden
size 32 and two layers, plus

    expected.json           {"max_seq_length", "normalize", "pooling", "cases": [{"text", "ids"}]}
    expected.safetensors    "embeddings" f32 [cases, width]
                            "hidden" f32 [tokens of case 1, 32], the last layer's output

Together they cover the four encoder families, every pooling mode, weights in
f32, bf16 and f16, one file and shards, names with and without the base model's
prefix, and an encoder without a normalising head. Reduced weights are widened to f32
before anything is computed. The model code and the tokenizers are those of the
transformers and tokenizers libraries; vocabularies and pooling are made here.
Remaking gives the same bytes.

usage: python make_hf.py OUT
"""

import argparse
import json
import math
import os
import random
import re
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file
from texts import AWKWARD, CLAUSES, grow
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

SEED = 20260102
HIDDEN = 32
LONGEST = 24


@dataclass
class Spec:
    """One directory: what it is called and what it is made of."""

    name: str
    config: type
    model: type
    tokenizer: str
    # In the order in which sentence encoders concatenate them.
    pooling: tuple[str, ...]
    normalize: bool = True
    dtype: torch.dtype = torch.float32
    shard: str = "1GB"
    extra: dict = field(default_factory=dict)


T = transformers
SPECS = [
    Spec("bert-mean", T.BertConfig, T.BertModel, "wordpiece", ("mean_tokens",)),
    Spec("bert-cls-bf16", T.BertConfig, T.BertModel, "wordpiece", ("cls_token",), dtype=torch.bfloat16),
    Spec("bert-cls-max-mean", T.BertConfig, T.BertModel, "wordpiece",
         ("cls_token", "max_tokens", "mean_tokens"), normalize=False, extra={"hidden_act": "gelu_new"}),
    Spec("distilbert-max-f16", T.DistilBertConfig, T.DistilBertForMaskedLM, "wordpiece", ("max_tokens",),
         dtype=torch.float16),
    Spec("roberta-mean-sharded", T.RobertaConfig, T.RobertaModel, "bpe", ("mean_tokens",), shard="40KB"),
    Spec("mpnet-mean-sqrt-len", T.MPNetConfig, T.MPNetModel, "wordpiece-mpnet", ("mean_sqrt_len_tokens",)),
    Spec("xlm-roberta-lasttoken", T.XLMRobertaConfig, T.XLMRobertaForMaskedLM, "unigram", ("lasttoken",)),
]


def corpus() -> list[str]:
    return [clause for clauses in CLAUSES.values() for clause in clauses]


def pieces(words: list[str], inner: str) -> list[tuple[str, int]]:
    """Parts of `words` of up to five characters with their counts, best first.

    A part that is not at the start of its word carries the mark `inner`. The
    order is by characters covered, then by spelling, so the same words give
    the same vocabulary everywhere (the tokenizers library's own trainers for
    these two models break ties by hash order).
    """
    counts = Counter(
        (inner if start else "") + word[start:end]
        for word in words for start in range(len(word)) for end in range(start + 1, min(start + 5, len(word)) + 1))
    return sorted(counts.items(), key=lambda item: (-item[1] * len(item[0].removeprefix(inner)), item[0]))


def wordpiece(specials: dict[str, str]) -> tokenizers.Tokenizer:
    """Lower-casing WordPiece, `specials` by role: pad, unk, cls, sep, mask."""
    normalizer, pre_tokenizer = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    words = [word for text in corpus() for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(text))]
    # Characters of rarer scripts do not fit, so that unknown tokens occur.
    vocabulary = list(specials.values()) + [piece for piece, _ in pieces(words, "##")[:235]]
    model = models.WordPiece({piece: i for i, piece in enumerate(vocabulary)}, unk_token=specials["unk"],
                             max_input_chars_per_word=100)
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def byte_bpe(specials: dict[str, str]) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=list(specials.values()), show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


def unigram(specials: dict[str, str]) -> tokenizers.Tokenizer:
    """Unigram over words that begin with a visible space, scores by frequency."""
    pre_tokenizer = pre_tokenizers.Metaspace()
    words = [word for text in corpus() for word, _ in pre_tokenizer.pre_tokenize_str(text)]
    chosen = pieces(words, "")[:440]
    total = sum(count for _, count in chosen)
    scored = [(piece, round(math.log(count / total), 4)) for piece, count in chosen]
    vocabulary = [(token, 0.0) for token in specials.values()] + scored
    model = models.Unigram(vocabulary, unk_id=list(specials).index("unk"), byte_fallback=False)
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(tokenizers.Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


BERT_ROLES = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
ROBERTA_ROLES = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}


def build_tokenizer(kind: str) -> tuple[tokenizers.Tokenizer, dict[str, str]]:
    make, roles = {
        "wordpiece": (wordpiece, BERT_ROLES),
        "wordpiece-mpnet": (wordpiece, ROBERTA_ROLES),
        "bpe": (byte_bpe, ROBERTA_ROLES),
        "unigram": (unigram, ROBERTA_ROLES),
    }[kind]
    tokenizer = make(roles)
    tokenizer.add_special_tokens([
        tokenizers.AddedToken(token, special=True, normalized=False, lstrip=role == "mask" and roles is ROBERTA_ROLES)
        for role, token in roles.items()])
    ids = {role: tokenizer.token_to_id(token) for role, token in roles.items()}
    cls, sep = (roles["cls"], ids["cls"]), (roles["sep"], ids["sep"])
    if kind == "bpe":
        tokenizer.post_processor = processors.RobertaProcessing(sep, cls, add_prefix_space=False)
    else:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{cls[0]} $A {sep[0]}", pair=f"{cls[0]} $A {sep[0]} $B:1 {sep[0]}:1", special_tokens=[cls, sep])
    return tokenizer, roles


def build_model(spec: Spec, tokenizer: tokenizers.Tokenizer, roles: dict[str, str]) -> torch.nn.Module:
    """The seeded model, its weights rounded to `spec.dtype` and held in f32."""
    sizes = {"hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    if spec.config is T.DistilBertConfig:
        sizes = {"dim": HIDDEN, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
    ids = {role: tokenizer.token_to_id(token) for role, token in roles.items()}
    # The RoBERTa family counts positions from pad + 1.
    extra = {"max_position_embeddings": LONGEST + ids["pad"] + 1} | spec.extra
    if spec.config in (T.RobertaConfig, T.XLMRobertaConfig, T.MPNetConfig):
        extra |= {"bos_token_id": ids["cls"], "eos_token_id": ids["sep"], "type_vocab_size": 1, "layer_norm_eps": 1e-5}
    torch.manual_seed(SEED)
    model = spec.model(spec.config(vocab_size=tokenizer.get_vocab_size(), pad_token_id=ids["pad"], **sizes, **extra))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape)
            if parameter.ndim == 1:  # biases and norms: nothing is exactly 0 or 1
                offset = 1.0 if re.search(r"norm.*weight", name, re.IGNORECASE) else 0.0
                parameter.copy_(offset + 0.1 * noise)
            else:
                # Wide enough that attention is far from uniform.
                scale = 0.5 if "embedding" in name else 1.5 / parameter.shape[1] ** 0.5
                parameter.copy_(scale * noise)
            parameter.copy_(parameter.to(spec.dtype).to(torch.float32))
    return model.eval()


def pool(hidden: torch.Tensor, mode: str) -> torch.Tensor:
    """`hidden` [tokens, width] of one text without padding, as one vector."""
    return {
        "cls_token": lambda h: h[0],
        "lasttoken": lambda h: h[-1],
        "max_tokens": lambda h: h.max(0).values,
        "mean_tokens": lambda h: h.sum(0) / len(h),
        "mean_sqrt_len_tokens": lambda h: h.sum(0) / len(h) ** 0.5,
    }[mode](hidden)


def encode(spec: Spec, model: torch.nn.Module, batch: list[list[int]], pad: int) -> list[torch.Tensor]:
    """Last hidden states of each text; several texts are padded and masked."""
    width = max(len(ids) for ids in batch)
    tokens = torch.tensor([ids + [pad] * (width - len(ids)) for ids in batch])
    mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in batch])
    with torch.no_grad():
        hidden = model.base_model(input_ids=tokens, attention_mask=mask).last_hidden_state
    return [row[: len(ids)] for row, ids in zip(hidden, batch, strict=True)]


def texts() -> list[str]:
    rng = random.Random(SEED)
    return ["", "The ferry left before the fog had lifted."] + AWKWARD[4:8] + AWKWARD[19:25] + [
        grow(rng, language, 1 + i % 3) for i, language in enumerate(CLAUSES)]


def write_json(path: Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n")


def make(spec: Spec, out: Path) -> None:
    tokenizer, roles = build_tokenizer(spec.tokenizer)
    model = build_model(spec, tokenizer, roles)
    pad = tokenizer.token_to_id(roles["pad"])

    saved = build_model(spec, tokenizer, roles).to(spec.dtype)
    saved.save_pretrained(out, max_shard_size=spec.shard)
    (out / "generation_config.json").unlink(missing_ok=True)
    tokenizer.save(str(out / "tokenizer.json"))
    # The plain class takes tokenizer.json as it is; a family's own would rebuild it in part.
    tokenizer_class = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": LONGEST}
    write_json(out / "tokenizer_config.json", tokenizer_class | {
        f"{role}_token": token for role, token in roles.items()})
    write_json(out / "sentence_bert_config.json", {"max_seq_length": LONGEST, "do_lower_case": False})
    stages = [("", "Transformer"), ("1_Pooling", "Pooling")] + [("2_Normalize", "Normalize")] * spec.normalize
    write_json(out / "modules.json", [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(stages)])
    modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    write_json(out / "1_Pooling" / "config.json", {"word_embedding_dimension": HIDDEN} | {
        f"pooling_mode_{mode}": mode in spec.pooling for mode in modes} | {"include_prompt": True})

    tokenizer.enable_truncation(LONGEST)
    cases = [{"text": text, "ids": tokenizer.encode(text).ids} for text in texts()]
    hidden = [encode(spec, model, [case["ids"]], pad)[0] for case in cases]
    padded = encode(spec, model, [case["ids"] for case in cases], pad)
    error = max((a - b).abs().max().item() for a, b in zip(hidden, padded, strict=True))
    if error > 1e-5:
        raise SystemExit(f"{spec.name}: padding changes the hidden states by {error:.1e}")
    rows = torch.stack([torch.cat([pool(h, mode) for mode in spec.pooling]) for h in hidden])
    if spec.normalize:
        rows = torch.nn.functional.normalize(rows, p=2, dim=1)
    spread = (rows - rows.mean(0)).norm(dim=1).min().item()
    if not torch.isfinite(rows).all() or spread < 1e-2:
        raise SystemExit(f"{spec.name}: embeddings are not finite or hardly differ ({spread:.1e})")
    record = {"max_seq_length": LONGEST, "normalize": spec.normalize, "pooling": list(spec.pooling)}
    lines = ",\n".join(json.dumps(case) for case in cases)
    (out / "expected.json").write_text(f'{json.dumps(record)[:-1]}, "cases": [\n{lines}\n]}}\n')
    save_file({"embeddings": rows, "hidden": hidden[1].contiguous()}, out / "expected.safetensors")
    reload_check(spec, model, out)
    size = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    print(f"{spec.name}: {len(cases)} cases, vocabulary {tokenizer.get_vocab_size()}, {size >> 10} KiB")


def reload_check(spec: Spec, model: torch.nn.Module, out: Path) -> None:
    """What lies on disk is what the embeddings were computed with."""
    stored = {}
    for shard in out.glob("model*.safetensors"):
        stored |= load_file(shard)
    for name, tensor in stored.items():
        if not torch.equal(tensor.to(torch.float32), model.state_dict()[name]):
            raise SystemExit(f"{spec.name}: {name} on disk is not the tensor that was run")
    if spec.shard != "1GB" and not (out / "model.safetensors.index.json").is_file():
        raise SystemExit(f"{spec.name}: was meant to be sharded")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for spec in SPECS:
        with tempfile.TemporaryDirectory() as work:
            make(spec, Path(work) / spec.name)
            shutil.rmtree(args.out / spec.name, ignore_errors=True)
            shutil.copytree(Path(work) / spec.name, args.out / spec.name)
    for file in args.out.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)


if __name__ == "__main__":
    main()
