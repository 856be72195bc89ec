"""Goldens of the real sentence encoder all-MiniLM-L6-v2.

Writes beside this file
    minilm.json           {"max_seq_length", "versions", "cases": [{"text", "ids"}]}
    minilm.safetensors    "embeddings" f32 [200, 384], rows in the order of the cases

Token ids are the tokenizer's own, [CLS] and [SEP] included, cut to 256 as
sentence_bert_config.json says (tokenizer.json itself says 128 and pads to 128:
the sentence encoder's setting overrules both). Embeddings are the mean of the
last hidden states over the mask, divided by their L2 norm, all in f32, one
text at a time.

usage: python minilm.py MODEL_DIR [--check]     --check compares, writes nothing
"""

import argparse
import json
from pathlib import Path

import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file
from texts import sentences

HERE = Path(__file__).parent
# Same maths, other order of summation (another CPU or thread count).
REMAKE_LIMIT = 2e-6


def embed(model: torch.nn.Module, ids: list[int]) -> torch.Tensor:
    tokens = torch.tensor([ids])
    mask = torch.ones_like(tokens)
    hidden = model(input_ids=tokens, attention_mask=mask).last_hidden_state
    weight = mask.unsqueeze(-1).to(hidden.dtype)
    mean = (hidden * weight).sum(1) / weight.sum(1).clamp(min=1e-9)
    return torch.nn.functional.normalize(mean, p=2, dim=1)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="directory made by tools/fetch-minilm.sh")
    parser.add_argument("--check", action="store_true", help="compare with the stored goldens instead of writing")
    args = parser.parse_args()

    limit = json.loads((args.model / "sentence_bert_config.json").read_text())["max_seq_length"]
    tokenizer = tokenizers.Tokenizer.from_file(str(args.model / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    texts = sentences(lambda text: len(tokenizer.encode(text).ids), longest=limit)
    tokenizer.enable_truncation(limit)
    slow = transformers.AutoTokenizer.from_pretrained(args.model)
    model = transformers.AutoModel.from_pretrained(args.model, dtype=torch.float32, attn_implementation="eager").eval()

    cases, rows = [], []
    with torch.no_grad():
        for text in texts:
            ids = tokenizer.encode(text).ids
            other = slow(text, truncation=True, max_length=limit)["input_ids"]
            if ids != other:
                raise SystemExit(f"tokenizers and transformers disagree on {text!r}: {ids} and {other}")
            cases.append({"text": text, "ids": ids})
            rows.append(embed(model, ids))
    embeddings = torch.stack(rows)
    if args.check:
        stored = json.loads((HERE / "minilm.json").read_text())
        error = (load_file(HERE / "minilm.safetensors")["embeddings"] - embeddings).abs().max().item()
        if stored["cases"] != cases or error > REMAKE_LIMIT:
            raise SystemExit(f"the goldens differ: same tokens: {stored['cases'] == cases}, embeddings by {error:.1e}")
        print(f"{len(cases)} cases, same tokens, embeddings within {error:.1e}")
        return
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "tokenizers": tokenizers.__version__}
    record = {"max_seq_length": limit, "versions": versions, "cases": cases}
    lines = ",\n".join(json.dumps(case, ensure_ascii=True) for case in cases)
    head = json.dumps({k: v for k, v in record.items() if k != "cases"})[:-1]
    (HERE / "minilm.json").write_text(f'{head}, "cases": [\n{lines}\n]}}\n')
    save_file({"embeddings": embeddings}, HERE / "minilm.safetensors")
    lengths = sorted(len(case["ids"]) for case in cases)
    print(f"{len(cases)} cases of {lengths[0]} to {lengths[-1]} tokens, median {lengths[len(lengths) // 2]}")


if __name__ == "__main__":
    main()
