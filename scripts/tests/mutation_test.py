#!/usr/bin/env python3
"""scripts/mutation.py finds in a build what it takes apart: of every room the command that links its tests, and in it the
room's library. The build may compile sources one by one or together."""
import sys
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import mutation  # noqa: E402


class LinkCommands(unittest.TestCase):
    def test_every_room_has_one_that_links_its_library(self):
        for name, room in mutation.ROOMS.items():
            with self.subTest(room=name):
                words = mutation.link_command(BUILD, room)
                self.assertIn(f"lib{room.library}.a", [Path(word).name for word in words])
                self.assertTrue(any(word.endswith(".o") for word in words))


if __name__ == "__main__":
    BUILD = Path(sys.argv.pop())
    if not (BUILD / "build.ninja").exists():
        print("SKIPPED: only builds by ninja can be taken apart")
        sys.exit(77)
    unittest.main()
