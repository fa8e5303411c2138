#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""Finds habits of language that make a sentence hard to read, and lets their number only shrink.

    prose.py [ROOT]                   check: exits 1 if a file has more hits than prose_allowed.txt
                                      says, or fewer (then lower its count there)
    prose.py [ROOT] --show PATH...    print the hits of files or folders: `file:line: rule: text`
    prose.py [ROOT] --rule NAME       only this rule (with --show)
    prose.py [ROOT] --update          lower the counts in prose_allowed.txt; raises none

The text looked at: comments and doc comments of C++ and Python, comments of shell and Meson files,
string literals of include/, examples/ and benchmarks/ that hold a sentence, names and messages of
test cases, and Markdown outside code blocks. Code in backticks and addresses are ignored.
"""

import argparse
import collections
import io
import pathlib
import re
import sys
import tokenize

# Folders and files that are searched, relative to the root.
SEARCHED = ('include', 'tests', 'examples', 'benchmarks', 'docs', 'cmake', '.ci', 'dev')
C_LIKE = {'.hpp', '.cpp', '.h', '.c', '.pml', '.in'}
ALLOWED = 'tests/shape/prose_allowed.txt'

Text = collections.namedtuple('Text', 'kind parts')  # parts: (line number, text) in order
Hit = collections.namedtuple('Hit', 'line rule text')

# --- The rules -----------------------------------------------------------------------------------
# Each rule is matched against one sentence. A rule whose pattern begins with ^ looks at how the
# sentence, or a clause after a colon or semicolon, begins. The kinds limit where a rule applies.

PROSE = frozenset(('comment', 'message', 'test name', 'paragraph', 'heading', 'cell'))
NO_TITLES = PROSE - {'heading', 'cell'}

PEOPLE = (r'(?<!\bpeople )(?<!\busers )(?<!\buser )(?<!\breaders )(?<!\breader )(?<!\bauthors )'
          r'(?<!\bprogrammers )(?<!\bmaintainers )(?<!\bcontributors )(?<!\banyone )')
# A noun or pronoun after "what": the clause has a subject, as in ": what it costs".
OBJECT = r'(?:it|we|you|I|they|he|the|an?|this|that|these|those|its|their|our|your|each|every|all)\b'
NUMBER = r'(?:two|three|four|five|six|seven|eight|nine|ten|twenty|fifty|dozen|hundred|\d+)'

RULES = [
    # (rule, pattern, kinds); the number is that of the habit in the style guide's table.
    ('1-who', PEOPLE + r'\b(?:who|whom|whoever)\b(?!\()', PROSE),
    ('1-who', r'\bwhose (?:it|that|this|they) (?:is|was|are|were)\b|^whose\b(?!.*\?)', PROSE),
    ('2-what', r'^(?:and |but |or |so )?(?:What|what(?! ' + OBJECT + r'))\b(?!\()'
               r'(?!.*\?)', NO_TITLES),
    ('2-what', r'^what ' + OBJECT, frozenset(('test name',))),
    ('2-what', r'(?:\b(?:of|for|from|with|by|and|but|where|when|that|if|unless|while|until|though'
               r'|because|than|or|as|since|only|all)|,) what(?:ever)? (?:is|are|was|were|has|had'
               r'|would|cannot|could|must|may|waits?|comes?|came|begins?|ends?|ended|needs?|does'
               r'|did|runs?|ran|goes|went|only)\b(?!.*\?)', PROSE),
    ('3-of', r'^(?:and |but |or )?of (?!course\b)(?!(?:the |these |those |all )?\d)'
             r'(?!.*?, (?:only|none|exactly|at most|at least|both|the first|the last|\d)\b)', PROSE),
    ('4-nobody', r'(?<!user )(?<!/)\b(?:nobody|somebody|anybody|everybody|no-one|someone)\b(?!/)',
     PROSE),
    ('5-none', r'\b(?:is|are|was|were|be|been|gets?|got) none\b(?! of\b)', PROSE),
    ('5-none', r'(?<!\bthere )\b(?:is|are|was|were) no (?!longer\b|more\b|less\b|fewer\b'
               r'|(?:\w+er|different) than\b|\w+er\b)\w+', PROSE),
    ('6-too', r', too\b|\ball the same\b|\bas well\b(?! (?:\w+ )?as\b)', PROSE),
    ('7-ever', r'\bfor ever\b|\bin vain\b|\bmeanwhile\b', PROSE),
    ('7-ever', r'\bno more\b(?=\s*(?:[.,;:)!?]|$|(?:and|but|or|if|when|then|after|by)\b))', PROSE),
    ('8-question', r'[\w)`"\]]\?["\')]*$', frozenset(('comment',))),
    ('9-pronoun', r'\btheirs\b|^one (?:that|which|who|of which)\b|^nothing of\b', PROSE),
    ('9-pronoun', r'\ball (?:that (?!the\b)|who |has |else (?:that|is|has)\b)', PROSE),
    ('10-family', r'\b(?:young|orphans?|orphaned(?! process)|heirs?|(?<!as a )guests?|houses?|verdicts?|bells?'
                  r'|strangers?|deeds?|travellers?|grows? up|grown up|returning|come home)\b', PROSE),
    ('12-go-on', r'\b(?:goes|go|went|gone|going) on\b(?! (?:\w+ )?(?:the |its |a )?'
                 r'(?:queue|ring|list|stack))(?<!what is going on)', PROSE),
    ('13-number', r'\bso (?:many|much|few|little)\b(?! (?:\w+ ){0,8}that\b)', PROSE),
    ('13-number', r'(?<!\bnot )\ba little\b(?!-)|\bsome ' + NUMBER + r'\b(?! of\b)', PROSE),
    ('14-none', r'^none (?!of\b|of them\b)(?:\w+s|may|can|must|will|did|had|was|were)\b', PROSE),
]
# The first of the habit 2 distinguishes a sentence's start, in upper case, from a clause's.
RULES = [(name, re.compile(pattern, 0 if 'What' in pattern else re.I), kinds) for name, pattern, kinds in RULES]
NAMES = sorted({name for name, _, _ in RULES})

# A word that a rule forbids and that is a term here: (path prefix, rule, word).
TERMS = [
    ('tests/vm/', '10-family', 'guest'),  # a virtual machine's system
]


# --- Sentences -----------------------------------------------------------------------------------

MASK = re.compile(r'``[^`]*``|`[^`]*`|\]\([^)]*\)|https?://\S+|<!--.*?-->', re.S)
SENTENCE_END = re.compile(r'[.!?]["\')]*\s+(?=["\'(`*\[]*[A-Z0-9`])')
ABBREVIATION = re.compile(r'(?:\b(?:e\.g|i\.e|cf|vs|etc|no|resp)|\b[A-Z])\.\s*$')
CLAUSE_END = re.compile(r'[:;]\s+')
OPENING = re.compile(r'[\s"\'(*_\[-]*(?:wq-\d+:|hazard-\d+:|\d+\.|[A-Z]\d+(?=\s))?[\s"\'(*_\[-]*')


def masked(text):
    """The text with code and addresses blotted out, every character where it was."""
    return MASK.sub(lambda found: found.group()[0] + 'x' * (len(found.group()) - 2)
                    + found.group()[-1], text)


def sentences(text):
    """(offset, sentence) of each sentence of a text."""
    begin = 0
    for end in SENTENCE_END.finditer(text):
        if ABBREVIATION.search(text[begin:end.end()]):
            continue
        yield begin, text[begin:end.end()].rstrip()
        begin = end.end()
    if text[begin:].strip():
        yield begin, text[begin:].rstrip()


def clauses(sentence):
    """(offset, clause to the sentence's end) of the sentence and of what follows each : and ;."""
    for begin in [0, *(match.end() for match in CLAUSE_END.finditer(sentence))]:
        skipped = OPENING.match(sentence, begin).end()
        yield skipped, sentence[skipped:]


def matches(sentence, kind):
    """(offset, rule) of each hit in a sentence, at most one a rule and place."""
    found = set()
    for name, pattern, kinds in RULES:
        if kind not in kinds:
            continue
        if pattern.pattern.startswith('^') or '|^' in pattern.pattern:
            for begin, clause in clauses(sentence):
                if match := pattern.search(clause):
                    found.add((begin + match.start(), name))
        else:
            found |= {(match.start(), name) for match in pattern.finditer(sentence)}
    return sorted(found)


def hits_of(text):
    """The hits of a Text."""
    joined, starts = '', []
    for line, part in text.parts:
        starts.append((len(joined), line))
        joined += part.strip() + ' '
    for begin, sentence in sentences(masked(joined)):
        for offset, rule in matches(sentence, text.kind):
            place = begin + offset
            line = [number for start, number in starts if start <= place][-1]
            shown = joined[max(begin, place - 30):place + 60].strip()
            yield Hit(line, rule, shown)


# --- Where the text is ---------------------------------------------------------------------------

NOISE = re.compile(
    r'(?P<line>//[^\n]*)|(?P<block>/\*.*?\*/)|(?P<raw>R"(?P<tag>[^()\s\\]*)\(.*?\)(?P=tag)")'
    r'|(?P<string>(?<![\w])(?:u8|[uUL])?"(?:\\.|[^"\\\n])*")'
    r"|(?P<character>(?<![0-9a-fA-F])'(?:\\.|[^'\\\n])+')", re.S)
TEST_NAME = re.compile(r'\b(?:TEST_CASE\w*|SUBCASE|TEST_SUITE|SKIP_CASE|MESSAGE|INFO'
                       r'|FAIL|\w+_MESSAGE)\s*\((?:[^"();{}]*(?:\([^"()]*\)[^"();{}]*)*,)?\s*$')
NO_PROSE = re.compile(r'NOLINT|clang-format|SPDX-License|expect:')
SENTENCE = re.compile(r"[A-Za-z'-]+(?: [\w'`(){}%.,:-]+){2,}")  # three words or more


def c_like(text, literals):
    """The Texts of a C++ file; `literals`: all literals that hold a sentence are messages."""
    comments, strings = [], []
    line, place = 1, 0
    previous = None  # where the last comment was: (line, column, whole line)
    string_end = -1
    for found in NOISE.finditer(text):
        line += text.count('\n', place, found.start())
        place = found.start()
        if found['line']:
            begin = text.rfind('\n', 0, place) + 1
            column, whole = place - begin, not text[begin:place].strip()
            body = re.sub(r'^//[/!]?<?', '', found.group())
            joins = previous and previous[0] == line - 1 and (
                column == previous[1] and whole)
            if not body.strip() or NO_PROSE.search(body) or re.match(r'^\s*[-=*#]{4,}', body):
                previous = None
                continue
            if joins:
                comments[-1].parts.append((line, body))
            else:
                comments.append(Text('comment', [(line, body)]))
            previous = (line, column, whole)
        elif found['block']:
            body = found.group()[2:-2].split('\n')
            comments.append(Text('comment', [(line + number, re.sub(r'^\s*\*+', '', part))
                                             for number, part in enumerate(body)]))
        elif found['string']:
            body = re.sub(r'\\.', ' ', found.group()[found.group().index('"') + 1:-1])
            if strings and string_end >= 0 and not text[string_end:place].strip():
                if strings[-1]:
                    strings[-1].parts.append((line, ' ' + body if body[:1] == ' ' else body))
            elif TEST_NAME.search(text, max(0, place - 200), place):
                strings.append(Text('test name', [(line, body)]))
            elif literals:
                strings.append(Text('message', [(line, body)]))
            else:
                strings.append(None)
            string_end = found.end()
    for found in strings:
        if found and (found.kind == 'test name'
                      or SENTENCE.search(' '.join(part for _, part in found.parts))):
            yield found
    for comment in comments:
        yield from without_code(comment)


def without_code(comment):
    """A comment in paragraphs: indented code and lists break it."""
    parts = []
    for line, part in comment.parts:
        if re.match(r'^ {4,}\S', part) and not parts:
            continue  # an example
        if re.match(r'^\s*(?:[-*]|\d+\.) ', part) and parts:
            yield Text(comment.kind, parts)
            parts = []
        if not part.strip():
            if parts:
                yield Text(comment.kind, parts)
            parts = []
            continue
        parts.append((line, part))
    if parts:
        yield Text(comment.kind, parts)


def python(text):
    """The Texts of a Python file: comments and docstrings."""
    block, last = [], -1
    statement = True  # a string here is a docstring
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            body = token.string.lstrip('#')
            if not body.strip() or body.startswith('!') or NO_PROSE.search(body) or 'noqa' in body:
                continue
            if token.start[0] == last + 1:
                block.append((token.start[0], body))
            else:
                if block:
                    yield Text('comment', block)
                block = [(token.start[0], body)]
            last = token.start[0]
        elif token.type == tokenize.STRING and statement:
            body = re.sub(r'^[rRbB]*("""|\'\'\'|"|\')|("""|\'\'\'|"|\')$', '', token.string)
            lines = [(token.start[0] + number, part) for number, part in
                     enumerate(body.split('\n'))]
            yield from without_code(Text('comment', lines))
        if token.type not in (tokenize.COMMENT, tokenize.NL):
            statement = token.type in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    if block:
        yield Text('comment', block)


def hash_comments(text):
    """The Texts of a shell or Meson file."""
    block, last = [], -1
    for number, line in enumerate(text.split('\n'), 1):
        match = re.match(r'^\s*#+\s(.*)|.*\s#\s(.*)', line)
        body = match and (match.group(1) or match.group(2))
        if not body or NO_PROSE.search(body) or body.startswith('shellcheck'):
            continue
        if number == last + 1:
            block.append((number, body))
        else:
            if block:
                yield Text('comment', block)
            block = [(number, body)]
        last = number
    if block:
        yield Text('comment', block)


def markdown(text):
    """The Texts of a Markdown file: headings, paragraphs, list items, cells of tables."""
    fence, parts = None, []
    for number, line in enumerate(text.split('\n') + [''], 1):
        mark = re.match(r'^\s*(```|~~~)', line)
        code = fence or mark or re.match(r'^ {4,}\S', line) and not parts
        if mark:
            fence = None if fence else mark.group(1)
        heading = re.match(r'^#+\s+(.*)', line)
        item = re.match(r'^\s*(?:[-*+]|\d+\.)\s+(.*)', line)
        table = line.lstrip().startswith('|')
        if (code or heading or item or table or not line.strip()) and parts:
            yield Text('paragraph', parts)
            parts = []
        if code or not line.strip():
            continue
        if heading:
            yield Text('heading', [(number, heading.group(1))])
        elif table:
            for cell in re.split(r'(?<!\\)\|', line):
                if cell.strip(' -:'):
                    yield Text('cell', [(number, cell)])
        else:
            parts.append((number, item.group(1) if item else re.sub(r'^\s*>\s?', '', line)))


def texts_of(name, text):
    """The Texts of a file by its name, or none if it is of no kind that is searched."""
    path = pathlib.PurePosixPath(name)
    if path.suffix == '.md':
        return markdown(text)
    if path.suffix in C_LIKE:
        return c_like(text, not name.startswith('tests/'))
    if path.suffix == '.py':
        return python(text)
    if path.suffix == '.sh' or path.name == 'meson.build' or text.startswith('#!/bin/'):
        return hash_comments(text)
    return ()


def check_text(name, text):
    """The hits of a file, in order."""
    hits = []
    for found in texts_of(name, text):
        for hit in hits_of(found):
            if not any(name.startswith(prefix) and hit.rule == rule and word in hit.text.lower()
                       for prefix, rule, word in TERMS):
                hits.append(hit)
    return sorted(hits)


# --- The list ------------------------------------------------------------------------------------

def files(root, paths=None):
    """The names of all files that are searched, or of those below `paths`."""
    paths = paths or [*SEARCHED, *(path.name for path in root.glob('*.md')), 'meson.build']
    for path in paths:
        path = root / path
        below = [path] if path.is_file() else path.rglob('*')
        for found in below:
            if found.is_file() and '__pycache__' not in found.parts:
                yield found.relative_to(root).as_posix()


def search(root, paths=None):
    """{name: hits} of the files that have hits."""
    found = {}
    for name in sorted(set(files(root, paths))):
        try:
            text = (root / name).read_text(encoding='utf-8')
        except UnicodeDecodeError:
            continue
        if hits := check_text(name, text):
            found[name] = hits
    return found


def read_allowed(root):
    """{name: count} of the list."""
    path = root / ALLOWED
    lines = path.read_text().split('\n') if path.exists() else []
    pairs = [line.split() for line in lines if line.strip() and not line.startswith('#')]
    return {name: int(count) for count, name in pairs}


HEADER = """\
# Files that still have habits which prose.py finds, and how many hits. A count may only shrink:
# `python3 tests/shape/prose.py --update` lowers the counts after a file was rewritten.
"""


def write_allowed(root, counts):
    lines = [f'{count:4} {name}\n' for name, count in sorted(counts.items()) if count]
    (root / ALLOWED).write_text(HEADER + ''.join(lines))


def compare(counts, allowed):
    """The faults of a tree with these counts."""
    faults = []
    for name in sorted(counts.keys() | allowed.keys()):
        count, limit = counts.get(name, 0), allowed.get(name, 0)
        if count > limit:
            faults.append(f'{name}: {count} hits, {limit} allowed; see them with '
                          f'`python3 tests/shape/prose.py --show {name}`')
        elif count < limit:
            faults.append(f'{name}: {count} hits, but {ALLOWED} says {limit}: lower it with '
                          '`python3 tests/shape/prose.py --update`')
    return faults


def main():
    options = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    options.add_argument('root', nargs='?', type=pathlib.Path,
                         default=pathlib.Path(__file__).resolve().parents[2])
    options.add_argument('--show', nargs='+', metavar='PATH', help='print the hits of these')
    options.add_argument('--rule', choices=NAMES, help='with --show: only this rule')
    options.add_argument('--update', action='store_true', help='lower the counts of the list')
    chosen = options.parse_args()
    if chosen.show:
        for name, hits in search(chosen.root, chosen.show).items():
            for hit in hits:
                if chosen.rule in (None, hit.rule):
                    print(f'{name}:{hit.line}: {hit.rule}: {hit.text}')
        return 0
    counts = {name: len(hits) for name, hits in search(chosen.root).items()}
    allowed = read_allowed(chosen.root)
    if chosen.update:
        allowed = {name: min(limit, counts.get(name, 0)) for name, limit in allowed.items()}
        write_allowed(chosen.root, allowed)
    faults = compare(counts, allowed)
    for fault in faults:
        print(fault)
    print(f'{sum(counts.values())} hits in {len(counts)} files, {len(faults)} faults')
    return 1 if faults else 0


if __name__ == '__main__':
    sys.exit(main())
