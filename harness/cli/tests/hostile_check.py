"""Malformed GGUF files through the whole program: one line, quickly, in little memory. The readers' own tests hold every
malformed input; here stand those that ask for much."""
import os
import struct
import subprocess

import driver
from driver import CommandLineTest

U32, U64 = struct.Struct("<I").pack, struct.Struct("<Q").pack


def text(value):
    return U64(len(value)) + value


def header(num_tensors, num_keys):
    return b"GGUF" + U32(3) + U64(num_tensors) + U64(num_keys)


def key(name, kind, value):
    return text(name) + U32(kind) + value


def tensor(name, dimensions, kind=0, offset=0):
    return text(name) + U32(len(dimensions)) + b"".join(map(U64, dimensions)) + U32(kind) + U64(offset)


def qwen2(**changes):
    numbers = {"block_count": 1, "context_length": 8, "embedding_length": 8, "feed_forward_length": 8,
               "attention.head_count": 2, **{name.replace("__", "."): value for name, value in changes.items()}}
    keys = [key(b"general.architecture", 8, text(b"qwen2")),
            key(b"qwen2.attention.layer_norm_rms_epsilon", 6, struct.pack("<f", 1e-6))]
    keys += [key(f"qwen2.{name}".encode(), 4, U32(value)) for name, value in numbers.items()]
    return keys


MANY = 65_536
FILES = {
    "G06 tensors": header(2**63, 0),
    "G07 keys": header(0, 2**64 - 1),
    "G06 many tensors that are not there": header(MANY, 0) + tensor(b"t", [8]) * 1000,
    "G15 a string of a tebibyte": header(0, 1) + key(b"k", 8, U64(2**40)),
    "G16 an array that wraps": header(0, 1) + key(b"k", 9, U32(10) + U64(2**61)),
    "G17 arrays of arrays": header(0, 1) + key(b"k", 9, (U32(9) + U64(1)) * 10_000),
    "G27 elements": header(1, 0) + tensor(b"t", [2**32, 2**32]) + bytes(64),
    "G29 a dimension": header(1, 0) + tensor(b"t", [2**62]) + bytes(64),
    "G33 an offset": header(1, 0) + tensor(b"t", [8], 0, 2**64 - 1) + bytes(64),
    "G40 as many layers as a key may say": header(1, 7) + b"".join(qwen2(block_count=2**31 - 1)) +
                                           tensor(b"token_embd.weight", [8, 4]) + bytes(160),
    "G40 a vocabulary of 2^31": header(1, 7) + b"".join(qwen2()) + tensor(b"token_embd.weight", [8, 2**31 - 1]) + bytes(64),
}


class Hostile(CommandLineTest):
    def check(self, path, most_mebibytes=200):
        self.refused("run", "--model", path, "--quiet", says=os.path.basename(path))
        with open(self.folder / "said", "w+", encoding="utf-8") as said:
            process = subprocess.Popen([driver.QDIFF, "inspect", str(path)], stdout=said, stderr=said)
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        self.assertEqual(process.returncode, driver.BAD_INPUT)
        self.assertRegex((self.folder / "said").read_text(), rf"\Aqdiff: [^\n]*{os.path.basename(path)}[^\n]*\n\Z")
        self.assertLess(usage.ru_utime + usage.ru_stime, 3.0)
        self.assertLess(usage.ru_maxrss / 1024, most_mebibytes)

    def test_headers_that_ask_for_much(self):
        for name, content in FILES.items():
            with self.subTest(name):
                path = self.folder / "hostile.gguf"
                path.write_bytes(content)
                self.check(path)

    def test_a_large_file_that_holds_little(self):
        path = self.folder / "large.gguf"
        with path.open("wb") as file:  # in pieces: what this process holds, its children are said to have held
            file.write(header(MANY, 127))
            for i in range(127):
                file.write(key(b"key%d" % i, 8, text(b"x" * 2**20)))
            file.truncate(2**36)  # a hole: names of no bytes
        self.check(path, most_mebibytes=200 + 128)  # and what the strings of a header may take
