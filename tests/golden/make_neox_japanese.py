"""Makes neox-japanese-small: a GPT-NeoX-Japanese checkpoint with random weights and a
vocabulary of its own, and what Hugging Face's implementation says of it.

Usage: python make_neox_japanese.py FOLDER TEXTFILE
Needs torch (1.13.0 was used, on a CPU) and transformers (4.30.2).
"""

import json
import os
import sys

import torch
from transformers import GPTNeoXJapaneseConfig, GPTNeoXJapaneseForCausalLM
from transformers.models.gpt_neox_japanese.tokenization_gpt_neox_japanese import (
    GPTNeoXJapaneseTokenizer,
)

folder, text_file = sys.argv[1:3]
os.makedirs(folder, exist_ok=True)

# A line is an id; forms joined by commas share it. Lower ids win among the words that fit.
words = ["して", "ます", "てい", "した", "です", "吾輩", "である", "ところ", "ました", "昔々",
         "こんにちは", "慶応,慶應", "大学,大學", "出身", "東京", "先生", "自分", "という", "から", "名前"]
kana = [chr(c) for c in range(0x3041, 0x3094)] + [chr(c) for c in range(0x30A1, 0x30F5)]
kanji = list("猫人一二三日本山川水火木金土年月時見行来今何私君彼女男子家中上下大小長高")
signs = list("。、「」ー・!?.:;()") + [chr(c) for c in range(0x30, 0x3A)]
latin = [chr(c) for c in range(0x41, 0x5B)] + [chr(c) for c in range(0x61, 0x7B)]
tags = ["<SP>", "<BR>", "<TAB>", "<URL>", "<EMAIL>", "<TEL>", "<DATE>", "<PRICE>", "<BLOCK>",
        "<KIGOU>", "<U2000U2BFF>", "<|emoji1|>", "<|emoji2|>"]
bytes_ = [f"<|byte{i}|>" for i in range(256)]
special = ["<|startoftext|>", "<|separator|>", "<|nottoken|>", "<|endoftext|>"]
lines = words + kana + kanji + signs + latin + tags + bytes_ + special
emoji = {
    "emoji": {"😀": "<|emoji1|>", "😄": "<|emoji1|>", "🐯": "<|emoji2|>", "🐱": "<|emoji2|>"},
    "emoji_inv": {"<|emoji1|>": "😀", "<|emoji2|>": "🐯"},
}
with open(f"{folder}/vocab.txt", "w", encoding="utf-8") as f:
    f.write("\n".join(lines) + "\n")
with open(f"{folder}/emoji.json", "w", encoding="utf-8") as f:
    json.dump(emoji, f, ensure_ascii=False, indent=1)

# More rows than tokens, as embeddings often have.
rows = (len(lines) + 31) // 32 * 32
settings = {
    "model_type": "gpt_neox_japanese",
    "architectures": ["GPTNeoXJapaneseForCausalLM"],
    "hidden_act": "gelu",
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "intermediate_multiple_size": 4,
    "max_position_embeddings": 256,
    "rotary_pct": 1.0,
    "rotary_emb_base": 10000,
    "layer_norm_eps": 1e-05,
    "vocab_size": rows,
    "bos_token_id": lines.index("<|startoftext|>"),
    "eos_token_id": lines.index("<|endoftext|>"),
    "tie_word_embeddings": True,
    "torch_dtype": "float16",
}
with open(f"{folder}/config.json", "w") as f:
    json.dump(settings, f, indent=2)
with open(f"{folder}/tokenizer_config.json", "w") as f:
    json.dump({"tokenizer_class": "GPTNeoXJapaneseTokenizer", "unk_token": "<|endoftext|>",
               "pad_token": "<|endoftext|>", "bos_token": "<|startoftext|>",
               "eos_token": "<|endoftext|>", "do_clean_text": False}, f)

torch.manual_seed(0)
model = GPTNeoXJapaneseForCausalLM(GPTNeoXJapaneseConfig(**settings)).eval()
weights = {}
for name, tensor in model.state_dict().items():
    if name.endswith(("inv_freq", "masked_bias", "attention.bias")):
        continue
    center, width = 0.0, 1.2 / tensor.shape[-1] ** 0.5
    if name.endswith(("norm.weight", "layernorm.weight")):
        center, width = 1.0, 0.2
    elif tensor.dim() == 1:
        width = 0.2
    elif "embed" in name:
        width = 0.15  # small beside what layers add, or every token would predict itself
    weights[name] = (center + width * torch.randn(tensor.shape)).half()
weights["embed_out.weight"] = weights["gpt_neox_japanese.embed_in.weight"]
torch.save(weights, f"{folder}/pytorch_model.bin")
model.load_state_dict({k: v.float() for k, v in weights.items()}, strict=False)

tokenizer = GPTNeoXJapaneseTokenizer(f"{folder}/vocab.txt", f"{folder}/emoji.json")


def encode(text):
    return tokenizer.encode(text, add_special_tokens=False)


texts = ["吾輩は猫である", "  吾輩は  猫である   ", "こんにちは。私は東京の大學から来ました!",
         "昔々、あるところに🐯がいた。\n二行目。", "Hello, world! 123", "慶應(慶応)大学出身", "—あ−"]
golden = []
with torch.no_grad():
    for text in texts:
        ids = encode(text)
        logits = model(torch.tensor([ids])).logits[0]
        greedy, more = [], list(ids)
        for _ in range(12):
            last = model(torch.tensor([more])).logits[0, -1]
            greedy.append(int(last.argmax()))
            more.append(greedy[-1])
        golden.append({
            "text": text,
            "ids": ids,
            "decoded": tokenizer.decode(ids),
            "last_logits": [round(float(x), 5) for x in logits[-1]],
            "logits_sum": [round(float(x), 4) for x in logits.double().sum(-1)],
            "greedy": greedy,
        })
    tokens = encode(open(text_file, encoding="utf-8").read(2000))[:400]
    window, losses = 128, []
    for start in range(0, len(tokens) - window, window):
        piece = torch.tensor(tokens[start : start + window + 1])
        logits = model(piece[None, :-1]).logits[0]
        losses += torch.nn.functional.cross_entropy(logits, piece[1:], reduction="none").tolist()
    nll = sum(losses) / len(losses)
with open(f"{folder}/golden.json", "w", encoding="utf-8") as f:
    json.dump(golden, f, ensure_ascii=False)
with open(f"{folder}/nll.json", "w") as f:
    json.dump({"tokens": tokens, "window": window, "mean_nll": nll}, f)
print(len(lines), "tokens,", rows, "rows, nll", nll)
