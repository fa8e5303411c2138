#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""lengths.py finds functions in all the forms that the headers use, and holds them to its limits."""

import pathlib
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
import lengths  # noqa: E402


def found(text):
    """(name, first line of the head, line of the {, line of the }) of each function."""
    return [tuple(one) for one in lengths.functions(text)]


def names(text):
    return [one.name for one in lengths.functions(text)]


class Functions(unittest.TestCase):
    def test_a_free_function(self):
        self.assertEqual(found('int f(int a) {\n  return a;\n}\n'), [('f', 1, 1, 3)])
        self.assertEqual(found('int g(int);\n\ninline int f(\n    int a)\n{\n}\n'), [('f', 3, 5, 6)])

    def test_scopes(self):
        text = ('namespace a::b {\nextern "C" {\nclass c final : public d<e> {\n public:\n'
                '  void f() const noexcept override { g({1}); }\n\n private:\n  int x_ = 0;\n'
                '  struct inner {\n    void h() {}\n  };\n};\n}\n}  // namespace a::b\n')
        self.assertEqual(found(text), [('c::f', 5, 5, 5), ('c::inner::h', 10, 10, 10)])

    def test_an_inline_namespace_is_no_function(self):
        for head in ('namespace a::inline v0', 'namespace a::inline v0::detail', 'inline namespace v0'):
            self.assertEqual(found(head + ' {\nvoid f() {\n}\n}\n'), [('f', 2, 2, 3)])

    def test_heads_of_classes(self):
        for head in ['class x', 'struct x final', 'class [[nodiscard("it (and only it) }")]] x : y',
                     'template <class T> class x', 'template <class T> requires(f<T>(1)) struct x',
                     'struct alignas(64) x', 'class x : public y<decltype(z(1))>', 'union x',
                     'template <> struct x<int*>', 'struct x<T>::y : z']:
            inside = names(head + ' {\n  void f() {}\n};\n')
            self.assertEqual(len(inside), 1, head)
            self.assertTrue(inside[0].endswith('::f'), (head, inside))

    def test_enums_and_values_are_no_functions(self):
        for text in ['enum class a : int { b, c };', 'enum a { b = f(1) };', 'int a{f(1)};',
                     'constexpr row r{.name = "f(x) {", .first = g(1)};', 'int a[] = {1, 2};',
                     'use uses_[64]{};', 'concept c = requires(T t) { t.f(); };',
                     'template <class T> concept c = a<T> && requires(T t) { { t.f() } -> b; };']:
            self.assertEqual(names(text + '\n'), [], text)
            self.assertEqual(names(text + '\nvoid f() {}\n'), ['f'], text)

    def test_initialisers_of_members_are_no_bodies(self):
        for text in ['struct a {\n  a(int b) noexcept : directory_entry{b}, c_{b}, d(b) {\n  }\n};',
                     'struct a {\n  a(int b) : c<int>{b},\n            d_{f({b})} {\n  }\n};',
                     'struct a {\n  explicit(f(1)) a(int b = {}) noexcept(g(b)) : c_{b} {\n  }\n};']:
            (one,) = found(text)
            self.assertEqual((one[0], one[3]), ('a::a', text.count('\n')), text)
            self.assertEqual(one[2], text[:text.rindex('{')].count('\n') + 1, text)

    def test_names(self):
        for head, name in [
                ('explicit operator bool() const', 'operator bool'), ('~a()', '~a'),
                ('T& operator*() noexcept', 'operator*'), ('void operator()(int a)', 'operator()'),
                ('int operator[](int i)', 'operator[]'), ('a& operator=(a&& o)', 'operator='),
                ('auto operator co_await() noexcept', 'operator co_await'),
                ('auto operator->() requires(!b<T>)', 'operator->'),
                ('void f() const requires(c<T>)', 'f'), ('auto f() -> decltype(g(1))', 'f'),
                ('template <class T, int (*F)()> requires d<T> void f(T t)', 'f'),
                ('[[nodiscard("(so)")]] static int f()', 'f'), ('int a::b::f(int c)', 'a::b::f'),
                ('int a<T>::f(b<U> c)', 'a::f'), ('auto f<int>(int a)', 'f'),
                ('friend bool operator==(a x, a y)', 'operator=='),
                ('static void* operator new(std::size_t size)', 'operator new'),
                ('void f(int (*g)(int) = nullptr)', 'f'), ('void f() try', 'f')]:
            self.assertEqual(names(head + ' {\n}\n'), [name], head)

    def test_lambdas_are_part_of_their_function(self):
        self.assertEqual(found('void f() {\n  g([] {\n    h();\n  });\n}\n'), [('f', 1, 1, 5)])
        self.assertEqual(found('inline auto f = [] {\n};\n'), [('lambda', 1, 1, 2)])
        self.assertEqual(found('inline auto f = [](int a) {\n};\n'), [('lambda', 1, 1, 2)])

    def test_braces_in_comments_literals_and_directives(self):
        text = ('// {\n/* {\n { */\n#define A { \\\n  {\nauto a = "{"; char b = \'{\';\n'
                'auto c = R"({)"; int d = 1\'000;\nvoid f() {\n  // }\n}\n')
        self.assertEqual(found(text), [('f', 8, 8, 10)])

    def test_unbalanced_braces(self):
        for text, line in [('void f() {\n', '1'), ('\n}\n', '2')]:
            with self.assertRaisesRegex(ValueError, f'^{line}: a brace'):
                lengths.functions(text)


class Limits(unittest.TestCase):
    def faults(self, text, allowed=''):
        with tempfile.TemporaryDirectory() as where:
            root = pathlib.Path(where)
            (root / 'include').mkdir()
            (root / 'tests' / 'shape').mkdir(parents=True)
            (root / 'include' / 'a.hpp').write_text(text)
            (root / lengths.ALLOWED).write_text('# a comment\n' + allowed)
            return lengths.check_tree(root)

    def rejects(self, fault, text, allowed=''):
        faults = self.faults(text, allowed)
        self.assertEqual(len(faults), 1, faults)
        self.assertIn(fault, faults[0])

    def function(self, lines, name='f'):
        return f'void {name}() {{\n' + '  g();\n' * (lines - 2) + '}\n'

    def test_headers(self):
        self.assertEqual(self.faults('\n' * 600), [])
        self.rejects('a.hpp:1: the header has 601 lines, limit 600', '\n' * 601)

    def test_functions(self):
        self.assertEqual(self.faults(self.function(60) + self.function(60, 'g')), [])
        self.rejects('a.hpp:1: f has 61 lines, limit 60', self.function(61))
        self.rejects('a.hpp:62: h has 61 lines', self.function(60) + '\n' + self.function(61, 'h'))
        self.rejects('b::f has 61', 'struct b {\n' + self.function(61) + '};\n')
        self.rejects('is not closed', 'void f() {\n')

    def test_lines(self):
        self.assertEqual(self.faults('// ' + 'x' * 97 + '\n'), [])
        self.rejects('a.hpp:2: 101 characters', '\n// ' + 'x' * 98 + '\n')

    def test_length_only_shrinks(self):
        header = '604 include/a.hpp\n'
        self.assertEqual(self.faults('\n' * 604, header), [])
        self.rejects('605 lines, limit 604', '\n' * 605, header)
        self.rejects('write 603', '\n' * 603, header)
        self.rejects('remove it', '\n' * 600, header)
        body = '70 include/a.hpp f\n'
        self.assertEqual(self.faults(self.function(70), body), [])
        self.assertEqual(self.faults(self.function(70) + self.function(9), body), [])  # an overload
        self.rejects('71 lines, limit 70', self.function(71), body)
        self.rejects('write 69', self.function(69), body)
        self.rejects('remove it', self.function(60), body)
        self.rejects('f does not exist', self.function(60, 'g'), body)
        self.rejects('b.hpp does not exist', '\n', '700 include/b.hpp\n')


if __name__ == '__main__':
    unittest.main()
