#!/usr/bin/env python3
"""Writes harness/model/unicode_classes.inc: the classes of characters that pre-tokenizers ask for, as ranges.

    make_unicode_classes.py [FILE]      needs the package tokenizers (made with 0.23.3)

Letters and numbers are what \\p{L} and \\p{N} match in the package `tokenizers`, whose splits they have to repeat. The third
table, where normalisation to NFC may change a text, is what its normalizer changes by itself or behind some other character
of Python's unicodedata that it composes with.
"""
import sys
import unicodedata
from pathlib import Path

from tokenizers import Regex, normalizers, pre_tokenizers

CHARACTERS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def matching(pattern):
    split = pre_tokenizers.Split(Regex(pattern), "removed")
    return {c for c in CHARACTERS if not split.pre_tokenize_str(chr(c))}


def changed_by_nfc():
    nfc = normalizers.NFC()
    changed = {c for c in CHARACTERS if nfc.normalize_str(chr(c)) != chr(c)}
    for c in CHARACTERS:
        parts = unicodedata.decomposition(chr(c)).split()
        if len(parts) == 2 and not parts[0].startswith("<") and c not in changed:
            changed.add(int(parts[1], 16))
    # Hangul vowels and final consonants compose by rule, not by table (The Unicode Standard, section 3.12). Marks that stand
    # in another order than the canonical one are put in order.
    changed |= set(range(0x1161, 0x1176)) | set(range(0x11A8, 0x11C3))
    return changed | {c for c in CHARACTERS if unicodedata.combining(chr(c)) != 0}


def ranges(characters):
    found = []
    for c in sorted(characters):
        if found and found[-1][1] == c - 1:
            found[-1][1] = c
        else:
            found.append([c, c])
    return found


def main():
    path = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent / "harness/model/unicode_classes.inc")
    text = "// Made by scripts/make_unicode_classes.py. First and last character of each range.\n"
    for name, characters in [("kLetters", matching(r"\p{L}")), ("kNumbers", matching(r"\p{N}")),
                             ("kChangedByNfc", changed_by_nfc())]:
        found = ranges(characters)
        text += f"constexpr Range {name}[] = {{\n"
        line = "   "
        for first, last in found:
            entry = f" {{0x{first:X}, 0x{last:X}}},"
            if len(line) + len(entry) > 118:
                text += line + "\n"
                line = "   "
            line += entry
        text += line + "\n};\n"
        print(f"{name}: {len(characters)} characters in {len(found)} ranges")
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
