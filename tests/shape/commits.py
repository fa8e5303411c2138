#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""Checks commit messages: `area: imperative summary`, then a body wrapped at 72 characters.

    commits.py [ROOT] [--range A..B] [--skipped CODE]    the commits of a range
    commits.py --message FILE                            one message, as a commit-msg hook

Without git, or in a clone that lacks the first commit of the range, there is nothing to check: the
script says so and exits with CODE, by default 0.
"""

import argparse
import pathlib
import re
import subprocess
import sys

FIRST_VERSION = '861d9fa'  # commits up to this one had no rule
# Commits that were made before this check was there and do not pass it.
EXEMPT = {
    '4681aa46df28fce52c6ba25bf3bdbd1847c218ea',
    'fc5593e223709bcfcc34a1f9893c45e5012a334f',
    '60ac25a3c0d29be3c3babf2379c7c91bcb41a3fe',
    'cc9e7e65797c530994bd55ad8a2f1b386b4b82ad',
    'c2f1e758c4e6c5ea51dee3a684cf4a6cb7f35c04',
    'ebe9c897f37a05c29993139a2deb56fb9ba1af9c',
    'b13a39f18c70c54d93841c5a1cc8f341ac27d6db',
    '1a893b201d3ea9f4784b37c05c98e7547d7e891c',
    '3ee3a9684493df01ddb2e5a09b9b97895f69612a',
    'a45eb1f877161254397300c0da1a5d254a475d9b',
    '1fcad66edab9705107e283264f34f5f47cd4c447',
}
WIDTH = 72

SUBJECT = re.compile(r'^(?P<area>[a-z0-9][a-z0-9/_, -]*): (?P<summary>\S.*)$')
FIRST_WORD = re.compile(r'^([a-z][a-z-]*)(?:\s|$)')
LONG_LINE_ALLOWED = re.compile(
    r'https?://'            # an address
    r'|^(?: {4}|\t|>|\|)'   # quoted code, output, a quotation or a table
    r'|^\S+$'               # one word
    r'|^[A-Z][\w-]+: .*@'   # a trailer, as Co-authored-by
)

VERBS = '''
    add allow assert avoid build bump cache call cancel change check clean close collect compare compile
    complete configure copy correct count cover create declare define delete describe detect document
    drop enable ensure explain expose extend extract fail fix follow format free generate handle ignore
    implement improve include inline install introduce join keep let limit link list load make mark
    measure merge move name open order pass pin post prefer prepare prevent print prove publish raise
    read receive record reduce refuse register release remove rename reorder repair replace report
    reset resolve restore resume retry return reuse rewrite run save search send set shorten show shut
    simplify skip sort speed split start state stop store submit support switch take teach tell test
    throw time track try turn unify update use validate verify wait wake warn wrap write
'''.split()
# Words that begin a noun phrase or a clause, so the summary is not an imperative.
NO_VERBS = set('''
    a all also an and another any as at because but by each every everything few for from he how if in
    into it its less many more most no nobody none not nothing now of on one only or our so some
    somebody something still such that the their then there these they this those to two we what when
    where whether which who whoever whose why with without
'''.split())
IRREGULAR = {'made', 'kept', 'ran', 'running', 'sent', 'shown', 'took', 'taken', 'taught',
             'told', 'thrown', 'threw', 'tried', 'tries', 'written', 'wrote', 'rewrote', 'rewritten',
             'built', 'woke', 'woken', 'froze'}


def forms(verb):
    """The third person, past and -ing forms of a regular verb, with and without a doubled letter."""
    stem = verb[:-1] if verb.endswith('e') else verb
    if verb.endswith('y') and verb[-2] not in 'aeiou':
        return {verb[:-1] + 'ies', verb[:-1] + 'ied', verb + 'ing'}
    plural = verb + ('es' if re.search(r'(s|x|z|ch|sh)$', verb) else 's')
    return {plural, stem + 'ed', stem + 'ing', stem + stem[-1] + 'ed', stem + stem[-1] + 'ing'}


WRONG_FORMS = {form: verb for verb in VERBS for form in forms(verb) if form not in VERBS}


def faults_of(message):
    """The faults of a message, one sentence each."""
    lines = message.rstrip('\n').split('\n')
    subject, faults = lines[0], []
    match = SUBJECT.match(subject)
    if not match:
        faults.append('the subject is not "area: summary" with a lower-case area')
    else:
        faults += faults_of_summary(match['summary'])
    if len(subject) > WIDTH:
        faults.append(f'the subject has {len(subject)} characters, limit {WIDTH}')
    if subject.endswith('.'):
        faults.append('the subject ends with a full stop')
    if len(lines) > 1 and lines[1]:
        faults.append('no empty line after the subject')
    fenced = False
    for number, line in enumerate(lines[1:], 2):
        if line.startswith('```'):
            fenced = not fenced
        elif len(line) > WIDTH and not fenced and not LONG_LINE_ALLOWED.search(line):
            faults.append(f'line {number} has {len(line)} characters, limit {WIDTH}')
    return faults


def faults_of_summary(summary):
    word = FIRST_WORD.match(summary)
    if not word:
        return [f'"{summary.split()[0]}" is not a lower-case verb']
    if (verb := WRONG_FORMS.get(word[1])) and word[1] not in NO_VERBS:
        return [f'"{word[1]}": write the imperative, "{verb}"']
    if word[1] in NO_VERBS | IRREGULAR:
        return [f'"{word[1]}" is not an imperative']
    return []


class NoHistory(Exception):
    pass


def git(root, *arguments):
    command = ['git', '-C', str(root), *arguments]
    try:
        run = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        raise NoHistory('git is not installed') from None
    if run.returncode != 0:
        raise NoHistory(run.stderr.strip().split('\n')[0] or 'git failed')
    return run.stdout


def commits(root, span):
    """(hash, message) of each commit of a range, merges excepted, oldest first."""
    top = pathlib.Path(git(root, 'rev-parse', '--show-toplevel').strip())
    if not top.samefile(root):
        raise NoHistory(f'{root} is not the top of a checkout')  # a tarball inside another checkout
    git(root, 'rev-parse', '--verify', '--quiet', span.split('..')[0] + '^{commit}')
    if git(root, 'rev-parse', '--is-shallow-repository').strip() == 'true':
        raise NoHistory('this is a shallow clone')
    log = git(root, 'log', '-z', '--reverse', '--no-merges', '--format=%H%n%B', span)
    for entry in filter(None, log.split('\0')):
        name, _, message = entry.partition('\n')
        if name not in EXEMPT:
            yield name[:10], message


def main():
    options = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    options.add_argument('root', nargs='?', type=pathlib.Path,
                         default=pathlib.Path(__file__).resolve().parents[2])
    options.add_argument('--range', default=f'{FIRST_VERSION}..HEAD', metavar='A..B')
    options.add_argument('--skipped', type=int, default=0, metavar='CODE')
    options.add_argument('--message', type=pathlib.Path, metavar='FILE')
    chosen = options.parse_args()
    if chosen.message:
        text = re.sub(r'^#.*\n?', '', chosen.message.read_text(), flags=re.M)
        faults = faults_of(text)
        for fault in faults:
            print(fault)
        return 1 if faults else 0
    try:
        checked = list(commits(chosen.root, chosen.range))
    except NoHistory as reason:
        print(f'skipped: {reason}')
        return chosen.skipped
    failed = 0
    for name, message in checked:
        for fault in faults_of(message):
            print(f'{name} "{message.splitlines()[0]}": {fault}')
            failed = 1
    print(f'{len(checked)} commits of {chosen.range} checked')
    return failed


if __name__ == '__main__':
    sys.exit(main())
