#!/usr/bin/env python3
"""Makes harness/model/tests/data/tokenizer: a small byte-level BPE tokenizer, and what the package tokenizers makes of texts.

    make_tokenizer_goldens.py [FOLDER]      needs the package tokenizers (made with 0.23.3)

tokenizer.json is trained on a few sentences. expected.json lists, for each pre-tokenizer that qdiff knows, its part of a
tokenizer.json and the token numbers of each text. The same seed writes the same bytes.
"""
import json
import random
import sys
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

QWEN2 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
LLAMA3 = QWEN2.replace(r"\p{N}|", r"\p{N}{1,3}|")


def byte_level(use_regex):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


def split(regex):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(regex), "isolated"), byte_level(False)])


PRE_TOKENIZERS = {
    "gpt2": byte_level(True),
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level(True)]),
    "qwen2": split(QWEN2),
    "llama3": split(LLAMA3),
}
SENTENCES = ["The quick brown fox jumps over the lazy dog, doesn't it?", "It's they're we've I'm you'll he'd.",
             "In 2024 there were 1234567 reasons;\n\n\tand more.", "Ünïcödé größer naïve straße", "数学 と 言語 модель текста",
             "def f(x):\n    return x + 1  # comment\n", "aaaa bbbb abab   abab"]
TEXTS = ["", "Hello, world!", "The the THE", "it's IT'S it'S 'street' 'll 'Re", "a  b   c    ", "  lead", "tab\t\ttab\n\n x\r\n y",
         "1 12 123 1234 12345", "x=1+2*(3-4)!!\n\n", "größer Ünïcödé", "数学 と 言語", "модель", "emoji 🙂🙂 end", "½ Ⅷ ٣٤ 𝟘",
         "a\u00a0b\u2003c\u3000", "'\u017f long s", "\x01\x02\x7f", "<|end|>after<|end|>", "<|end|", "<|long|><|long|>more", "...\n...\r\n",
         " \n \n ", "\u200bzero\u200bwidth", "🇩🇪 flag", "ａｂｃ１２３", "'", " '", "''s", "a'b'c's", "\r\r\n\n", "a1b2c3", "_under_score_"]
ALPHABET = list("aAtTsSeErR'''   12 90.,!?-\n\r\t") + list("éßЖ数ع٣½Ⅷ\u00a0\u3000\u2028🙂\u200b")


def main():
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent / "harness/model/tests/data/tokenizer")
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = PRE_TOKENIZERS["qwen2"]
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=400, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(SENTENCES * 3, trainer)
    tokenizer.add_tokens([AddedToken("<|end|>", special=True, normalized=False),
                          AddedToken("<|long|>", special=True, normalized=False),
                          AddedToken("<|long|><|long|>", special=False, normalized=False)])
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    generator = random.Random(7)
    texts = TEXTS + ["".join(generator.choice(ALPHABET) for _ in range(generator.randint(3, 14))) for _ in range(40)]
    expected = {"texts": texts, "pre_tokenizers": {}}
    for name, pre_tokenizer in PRE_TOKENIZERS.items():
        tokenizer.pre_tokenizer = pre_tokenizer
        part = json.loads(tokenizer.to_str())["pre_tokenizer"]
        expected["pre_tokenizers"][name] = {"part": part, "tokens": [tokenizer.encode(text).ids for text in texts]}
    text = json.dumps(expected, ensure_ascii=False, separators=(",", ":")).replace('],[', '],\n[')
    (folder / "expected.json").write_text(text + "\n", encoding="utf-8")
    print({path.name: path.stat().st_size for path in sorted(folder.iterdir())})


if __name__ == "__main__":
    main()
