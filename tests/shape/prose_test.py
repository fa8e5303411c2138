#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""prose.py finds the habits in each kind of text, and lets their number only shrink."""

import pathlib
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
import prose  # noqa: E402


def rules(text, kind='comment'):
    return [hit.rule for hit in prose.hits_of(prose.Text(kind, [(1, text)]))]


def found(name, text):
    return [(hit.line, hit.rule) for hit in prose.check_text(name, text)]


class Sentences(unittest.TestCase):
    def test_examples(self):
        path = pathlib.Path(prose.__file__).parent / 'prose_examples.txt'
        for line in path.read_text().splitlines():
            if line.startswith('#'):
                continue
            mark, text = line[0], line[2:]
            if mark == '-':
                self.assertTrue(rules(text), line)
            else:
                self.assertEqual(rules(text), [], line)

    def test_each_rule(self):
        for rule, text in [
                ('1-who', 'Wakes the worker, who takes the item.'),
                ('1-who', 'Whoever closes it waits.'),
                ('1-who', 'Whose it is, the tag says.'),
                ('2-what', 'What is left is freed.'),
                ('2-what', 'It waits: what was posted has been taken.'),
                ('2-what', 'It holds of what was cancelled.'),
                ('3-of', 'Of a file it is the size.'),
                ('3-of', 'It is the size; of a pipe it is 0.'),
                ('4-nobody', 'Somebody has to wake it.'),
                ('5-none', 'Null if there is none.'),
                ('5-none', 'A table is no file.'),
                ('6-too', 'A stop, too, ends it.'),
                ('6-too', 'It ends as well.'),
                ('7-ever', 'It waits for ever.'),
                ('7-ever', 'It is queued no more.'),
                ('7-ever', 'Meanwhile the ring waits.'),
                ('8-question', 'Is it time?'),
                ('9-pronoun', 'One that waits is woken.'),
                ('10-family', 'The heir of a key.'),
                ('12-go-on', 'The coroutine goes on.'),
                ('13-number', 'Takes so many items.'),
                ('13-number', 'It lasts a little longer.'),
                ('13-number', 'Sleeps some 20 ms.'),
                ('14-none', 'None outlives the loop.')]:
            self.assertIn(rule, rules(text), text)
        self.assertEqual(prose.NAMES, sorted({rule for rule, _, _ in prose.RULES}))

    def test_plain_uses_of_the_same_words(self):
        for text in [
                'Of course the kernel may refuse.',
                'Of the 12 lanes, 3 fail.',
                'Of the posts that meet a parked consumer, only the first owes a wake-up.',
                'The message is what() of the exception.',
                'Users who call it twice get an error.',
                'Run `who` or `id nobody`.',
                'The test becomes the user nobody.',
                'See https://example.org/what/is/young?who=nobody for it.',
                'There is no free slot.',
                'The call is no longer cancelled.',
                'At most N, and no more than the limit.',
                'It is as well tested as the ring.',
                'A little-endian number.',
                'There are so many descriptors that the scan takes 2 ms.',
                'It depends on the loop, whose thread is the owner.',
                'None of the operations has completed.',
                'In C++20 `a ? b : c` is an expression.',
                'It explains which calls block and what they cost.',
                'An orphaned process is adopted by init.']:
            self.assertEqual([rule for rule in rules(text)], [], text)

    def test_a_question_is_a_fault_of_comments_only(self):
        self.assertEqual(rules('Why is it not Asio?', 'heading'), [])
        self.assertEqual(rules('Which backend is used?', 'message'), [])
        self.assertEqual(rules('Which backend is used?', 'comment'), ['8-question'])

    def test_headings_and_cells_may_begin_with_what(self):
        self.assertEqual(rules('What it does not do', 'heading'), [])
        self.assertEqual(rules('what it is', 'cell'), [])
        self.assertEqual(rules('What it does not do'), ['2-what'])


class Places(unittest.TestCase):
    def test_comments_of_cpp(self):
        text = ('// Nobody waits.\n'
                'int a;  ///< who waits\n'
                '/* One line.\n * Nobody waits. */\n'
                '// It goes\n// on.\n')
        self.assertEqual(found('include/iowq/a.hpp', text),
                         [(1, '4-nobody'), (2, '1-who'), (4, '4-nobody'), (5, '12-go-on')])

    def test_code_is_no_prose(self):
        for text in ['int nobody = who(what);\n', '// `who` calls `nobody()`.\n',
                     'auto t = R"(nobody, who)";\n', "char c = '\"'; int who = 1'000;\n",
                     '//\n//     nobody(who);  // an example\n', 'int a;  // NOLINT(nobody)\n']:
            self.assertEqual(found('include/iowq/a.hpp', text), [], text)

    def test_literals(self):
        text = 'const char* a = "the pool has nobody "\n                "who waits";\n'
        self.assertEqual(found('include/iowq/a.hpp', text), [(1, '4-nobody'), (2, '1-who')])
        self.assertEqual(found('examples/a.cpp', text), [(1, '4-nobody'), (2, '1-who')])
        self.assertEqual(found('tests/pool/a_test.cpp', text), [])  # data of a test
        self.assertEqual(found('include/iowq/a.hpp', 'auto a = "nobody";\n'), [])  # no sentence

    def test_test_names(self):
        for macro in ['TEST_CASE("', 'SUBCASE("', 'SKIP_CASE("', 'TEST_CASE_FIXTURE(user, "',
                      'CHECK_MESSAGE(a(1, 2) == b, "']:
            text = f'\n{macro}wq-3: what is left is freed") {{\n'
            self.assertEqual(found('tests/pool/a_test.cpp', text), [(2, '2-what')], macro)
        self.assertEqual(found('tests/pool/a_test.cpp', 'CHECK(run("what is left is freed"));\n'), [])

    def test_markdown(self):
        text = ('# The house\n\nIt goes on\nfor ever.\n\n```cpp\n// nobody\n```\n\n'
                '| a | b |\n|---|---|\n| `nobody` | nobody waits |\n\n'
                '- It ends,\n  too.\n\n    nobody indented\n\nSee [x](nobody.md).\n')
        self.assertEqual(found('docs/a.md', text),
                         [(1, '10-family'), (3, '12-go-on'), (4, '7-ever'), (12, '4-nobody'),
                          (14, '6-too')])

    def test_python_and_shell(self):
        text = '"""Nobody waits."""\nnobody = "nobody waits here"\n# Who waits.\n'
        self.assertEqual(found('tests/a.py', text), [(1, '4-nobody'), (3, '1-who')])
        text = '#!/bin/sh\n# Nobody waits.\necho nobody  # who waits\n'
        self.assertEqual(found('dev', text), [(2, '4-nobody'), (3, '1-who')])

    def test_terms(self):
        self.assertEqual(found('tests/vm/a.py', '# The guest boots.\n'), [])
        self.assertEqual(found('tests/op/a.py', '# The guest boots.\n'), [(1, '10-family')])


class List(unittest.TestCase):
    def test_counts_only_shrink(self):
        self.assertEqual(prose.compare({'a': 2}, {'a': 2}), [])
        self.assertIn('3 hits, 2 allowed', prose.compare({'a': 3}, {'a': 2})[0])
        self.assertIn('1 hits, 0 allowed', prose.compare({'a': 1}, {})[0])
        self.assertIn('lower it', prose.compare({'a': 1}, {'a': 2})[0])
        self.assertIn('lower it', prose.compare({}, {'gone': 2})[0])

    def test_the_list_of_a_tree(self):
        with tempfile.TemporaryDirectory() as where:
            root = pathlib.Path(where)
            (root / 'include').mkdir()
            (root / 'tests' / 'shape').mkdir(parents=True)
            (root / 'include' / 'a.hpp').write_text('// Nobody waits for ever.\n')
            (root / 'README.md').write_text('It ends, too.\n')
            counts = {name: len(hits) for name, hits in prose.search(root).items()}
            self.assertEqual(counts, {'include/a.hpp': 2, 'README.md': 1})
            prose.write_allowed(root, {**counts, 'gone': 0})
            self.assertEqual(prose.read_allowed(root), counts)
            self.assertEqual(list(prose.search(root, ['include'])), ['include/a.hpp'])


if __name__ == '__main__':
    unittest.main()
