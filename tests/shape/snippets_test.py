#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""snippets.py finds the blocks, wraps them, and fails on those that do not compile."""

import pathlib
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
import snippets  # noqa: E402

COMMAND = sys.argv[1:]
PROGRAM = '```cpp\nint main() { return 0; }\n```\n'


def faults_of(readme, **documents):
    with tempfile.TemporaryDirectory() as where:
        root = pathlib.Path(where)
        (root / 'docs').mkdir()
        (root / 'README.md').write_text(readme)
        for name, text in documents.items():
            (root / 'docs' / f'{name}.md').write_text(text)
        return snippets.check(root, COMMAND)[0]


class Snippets(unittest.TestCase):
    def test_a_program_stands_by_itself(self):
        self.assertEqual(faults_of(f'text\n\n{PROGRAM}'), [])
        broken = faults_of('text\n\n```cpp\nint main() {\n  return zero;\n}\n```\n')
        self.assertEqual(len(broken), 1)
        self.assertIn('README.md:5:', broken[0])

    def test_documents_are_read_too(self):
        self.assertEqual(len(faults_of(PROGRAM, guide='```cpp\nint main() { ! }\n```\n')), 1)

    def test_a_readme_without_code_is_a_fault(self):
        self.assertEqual(faults_of('```sh\n./dev demo\n```\n'), ['README.md shows no C++'])

    def test_units(self):
        text = '<!-- snippet: in-coroutine -->\n```cpp\nco_await a();\n```\n\n```cpp\nint b;\n```\n'
        (first, kind, code), (second, none, _) = snippets.blocks(text)
        self.assertEqual((first, kind, code), (2, 'in-coroutine', 'co_await a();\n'))
        self.assertEqual((second, none), (6, None))
        self.assertIn('iowq::task<> snippet() {', snippets.unit('x', first, kind, code))
        self.assertIn('#line 7 "x"\nint b;', snippets.unit('x', second, none, 'int b;\n'))
        with self.assertRaises(ValueError):
            snippets.unit('x', 1, 'in-space', 'int b;')


if __name__ == '__main__':
    unittest.main(argv=sys.argv[:1], verbosity=2)
