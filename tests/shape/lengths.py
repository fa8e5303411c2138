#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""Limits the length of headers, functions and lines in include/.

    lengths.py [ROOT]             check; prints `path:line: fault`, exits 1 if there is one
    lengths.py [ROOT] --list N    print the N longest functions and headers

A longer function or header is allowed if lengths_allowed.txt names it with its length. An entry
there may only shrink. Functions are found by matching braces, without a compiler: see functions().
"""

import argparse
import collections
import pathlib
import re
import sys

HEADER_LIMIT = 600  # lines in a header
FUNCTION_LIMIT = 60  # lines of a body, from its { to its }
WIDTH_LIMIT = 100  # characters in a line
ALLOWED = 'tests/shape/lengths_allowed.txt'

# Comments and literals; a raw string comes before a plain one.
NOISE = re.compile(
    r'//[^\n]*|/\*.*?\*/|R"(?P<tag>[^()\s\\]*)\(.*?\)(?P=tag)"|"(?:\\.|[^"\\\n])*"'
    r"|(?<![0-9a-fA-F])'(?:\\.|[^'\\\n])+'", re.S)
DIRECTIVE = re.compile(r'^[ \t]*#(?:[^\n]*\\\n)*[^\n]*', re.M)

Function = collections.namedtuple('Function', 'name first open last')  # lines of head, { and }


def blank(found):
    """Blanks of the same length, with the line breaks."""
    return re.sub(r'[^\n]', ' ', found.group())


def code_of(text):
    """The text with comments, literals and directives blotted out, every character in its place."""
    return DIRECTIVE.sub(blank, NOISE.sub(blank, text))


# Words before the parameters of a function that have parentheses of their own.
NOT_A_NAME = {'requires', 'explicit', 'noexcept', 'decltype', 'alignas', 'alignof', 'sizeof', 'if',
              'while', 'for', 'switch', 'catch', '__attribute__', 'throw'}
ATTRIBUTE = re.compile(r'\[\[.*?\]\]', re.S)
CLASS_HEAD = re.compile(r'(?:^|[\s>)])(?:class|struct|union)\s+(?:alignas\s*\([^)]*\)\s*)?'
                        r'(?P<name>[\w:]+(?:<[^;{}]*>)?[\w:]*)\s*(?:final\s*)?(?::(?!:).*)?$', re.S)
NAMESPACE_HEAD = re.compile(
    r'(?:^|\s)namespace(?:\s+(?P<name>[\w:]+(?:\s+\w[\w:]*)?))?\s*$|(?:^|\s)extern\s*$')
ENUM_HEAD = re.compile(r'(?:^|\s)enum\b(?![^(]*\()')
# A requires-expression; a requires-clause comes after parameters or qualifiers.
REQUIRES = re.compile(r'(?:[=&|!(,]|\brequires|\breturn)\s*requires\s*'
                      r'(?:\((?:[^()]|\([^()]*\))*\)\s*)?$')
# A constructor's colon: after its parameters and perhaps noexcept, and no part of ::.
CONSTRUCTOR = re.compile(r'\)\s*(?:noexcept(?:\s*\((?:[^()]|\([^()]*\))*\))?\s*)?(?:requires\b[^:]*)?'
                         r'(?<!:):(?!:)')
OPERATOR = re.compile(r'\boperator\s*(?:\(\s*\)|\[\s*\]|[^\s\w(]+|co_await|new|delete|""\s*\w+'
                      r'|[\w:<>&* ]+)\s*$')
NAME = re.compile(r'(?P<name>(?:[A-Za-z_]\w*\s*(?:<[^;{}()]*>)?::)*~?[A-Za-z_]\w*)'
                  r'\s*(?:<[^;{}()]*>)?\s*$')


def without_templates(head):
    """The head with `template <...>` blotted out."""
    while match := re.search(r'\btemplate\s*<', head):
        depth, place = 1, match.end()
        while place < len(head) and depth:
            depth += {'<': 1, '>': -1}.get(head[place], 0)
            if head[place - 1:place + 1] == '->':
                depth += 1
            place += 1
        head = head[:match.start()] + ' ' * (place - match.start()) + head[place:]
    return head


def without_arguments(name):
    """A name without template arguments."""
    return re.sub(r'<.*?>(?=::|$)', '', name)


def function_name(head):
    """The name before the parameters of a head, or None if there is no function."""
    head = without_templates(ATTRIBUTE.sub(blank, head))
    depth = 0
    for place, character in enumerate(head):
        if character == '(':
            if depth == 0:
                before = head[:place]
                if re.search(r'\boperator\s*$', before) and head[place:].lstrip('( ')[:1] == ')':
                    depth += 1
                    continue  # the () of operator()
                if match := OPERATOR.search(before):
                    return re.sub(r'\s+', ' ', match.group().strip())
                match = NAME.search(before)
                if match and match['name'] not in NOT_A_NAME:
                    return without_arguments(match['name'])
                if re.search(r'\]\s*$', before):
                    return 'lambda'
            depth += 1
        elif character == ')':
            depth -= 1
    if re.search(r'(?:=|\breturn)\s*\[[^\[\]]*\]\s*(?:mutable|noexcept)?\s*$', head):
        return 'lambda'  # one without parameters
    return None


def kind_of(head):
    """(kind, name) of the brace that follows a head outside of any function."""
    plain = without_templates(ATTRIBUTE.sub(blank, head))
    if head.count('(') > head.count(')') or REQUIRES.search(plain):
        return 'expression', None
    if match := NAMESPACE_HEAD.search(plain):
        return 'namespace', match['name'] or ''
    if ENUM_HEAD.search(plain):
        return 'enum', None
    if match := CLASS_HEAD.search(plain):
        return 'class', without_arguments(match['name'])
    if (CONSTRUCTOR.search(plain) and re.search(r'[\w>]\s*$', plain)
            and not re.search(r'\b(?:noexcept|try)\s*$', plain)):
        return 'expression', None  # a member's initialiser
    if name := function_name(head):
        return 'function', name
    return 'expression', None


def functions(text):
    """The Functions of a header in order. Bodies within bodies (lambdas, local classes) are part of
    the function around them. Raises ValueError where braces do not match."""
    code = code_of(text)
    scopes = []  # (kind, name, first line of the head, line of the {)
    head_begin, line = 0, 1
    found = []
    for token in re.finditer(r'[{};\n]', code):
        kind = scopes[-1][0] if scopes else 'namespace'
        declares = kind in ('namespace', 'class')
        place = token.start()
        if token.group() == '\n':
            line += 1
        elif token.group() == ';' and declares:
            head_begin = place + 1
        elif token.group() == '{':
            if declares:
                head = re.sub(r'\b(?:public|private|protected)\s*:(?!:)', blank, code[head_begin:place])
                kind, name = kind_of(head)
                first = line - head.lstrip().count('\n')
                scopes.append((kind, name, first, line))
                if kind != 'expression':
                    head_begin = place + 1
            else:
                scopes.append(('inner', None, line, line))
        elif token.group() == '}':
            if not scopes:
                raise ValueError(f'{line}: a brace too many')
            kind, name, first, opened = scopes.pop()
            if kind == 'function':
                outer = [scope[1] for scope in scopes if scope[0] == 'class']
                found.append(Function('::'.join([*outer, name]), first, opened, line))
            if kind in ('namespace', 'class', 'enum', 'function'):
                head_begin = place + 1
    if scopes:
        raise ValueError(f'{scopes[-1][3]}: a brace that is not closed')
    return sorted(found, key=lambda one: one.first)


def read_allowed(root):
    """{(path, function or None): lines} of the list."""
    path = root / ALLOWED
    lines = path.read_text().split('\n') if path.exists() else []
    words = [line.split(maxsplit=2) for line in lines if line.strip() and line[0] != '#']
    return {(entry[1], entry[2] if len(entry) > 2 else None): int(entry[0]) for entry in words}


def check_length(what, length, limit, allowed):
    """The fault of one length, or None. `allowed`: its entry in the list, or None."""
    if length > (allowed or limit):
        return f'{what} has {length} lines, limit {allowed or limit}'
    if allowed and length < allowed:
        return (f'{what} has {length} lines: '
                + ('remove it from ' if length <= limit else f'write {length} in ') + ALLOWED)
    return None


def check_header(name, text, allowed):
    """The faults of a header."""
    faults = []

    def check(place, what, length, limit, entry):
        if fault := check_length(what, length, limit, allowed.get((name, entry))):
            faults.append(f'{name}:{place}: {fault}')

    check(1, 'the header', text.count('\n'), HEADER_LIMIT, None)
    for number, line in enumerate(text.split('\n'), 1):
        if len(line) > WIDTH_LIMIT:
            faults.append(f'{name}:{number}: {len(line)} characters, limit {WIDTH_LIMIT}')
    try:
        longest = {}  # overloads share an entry
        for one in functions(text):
            length = one.last - one.open + 1
            if length > longest.get(one.name, (0, 0))[0]:
                longest[one.name] = (length, one.open)
        for function, (length, place) in longest.items():
            check(place, function, length, FUNCTION_LIMIT, function)
        faults += [f'{name}:1: {function} does not exist: remove it from {ALLOWED}'
                   for path, function in allowed
                   if path == name and function and function not in longest]
    except ValueError as error:
        faults.append(f'{name}:{error}')
    return faults


def check_tree(root):
    allowed = read_allowed(root)
    faults, seen = [], set()
    for path in sorted((root / 'include').rglob('*.hpp')):
        name = path.relative_to(root).as_posix()
        seen.add(name)
        faults += check_header(name, path.read_text(), allowed)
    faults += [f'{ALLOWED}: {name} does not exist' for name, _ in allowed if name not in seen]
    return faults


def show(root, count):
    headers, bodies = [], []
    for path in (root / 'include').rglob('*.hpp'):
        name, text = path.relative_to(root).as_posix(), path.read_text()
        headers.append((text.count('\n'), name))
        bodies += [(one.last - one.open + 1, f'{name}:{one.open}: {one.name}')
                   for one in functions(text)]
    for length, what in sorted(headers)[-count:] + sorted(bodies)[-count:]:
        print(f'{length:4} {what}')
    print(f'{len(headers)} headers, {len(bodies)} functions')


def main():
    options = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    options.add_argument('root', nargs='?', type=pathlib.Path,
                         default=pathlib.Path(__file__).resolve().parents[2])
    options.add_argument('--list', type=int, metavar='N')
    chosen = options.parse_args()
    if chosen.list:
        show(chosen.root, chosen.list)
        return 0
    faults = check_tree(chosen.root)
    for fault in faults:
        print(fault)
    return 1 if faults else 0


if __name__ == '__main__':
    sys.exit(main())
