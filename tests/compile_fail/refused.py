#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""A program must be refused by the compiler, for the reason that it names.

    refused.py FILE COMPILER_ID VERSION -- COMPILER ARG...

FILE says  `// expect: REGEX`  what the diagnostics must match. If it says `// only: gcc12 clang19`,
all other compilers must accept it. If it has an `#ifdef FIXED`, it must compile with -DFIXED: then
it is refused for that reason and no other.
"""

import os
import re
import subprocess
import sys

ENGLISH = dict(os.environ, LC_ALL='C.UTF-8')


def compiles(command, path, *more):
    run = subprocess.run([*command, *more, '-fsyntax-only', path], stdin=subprocess.DEVNULL,
                         capture_output=True, text=True, env=ENGLISH)
    return run.returncode == 0, run.stderr


def check(path, compiler, command):
    text = open(path).read()
    expected = re.findall(r'^// expect: (.+)$', text, re.M)
    only = re.search(r'^// only: (.+)$', text, re.M)
    if not expected:
        return 1, 'says no `// expect: REGEX`'
    if re.search(r'^#ifn?def FIXED$', text, re.M):
        fine, said = compiles(command, path, '-DFIXED')
        if not fine:
            return 1, f'must compile with -DFIXED:\n{said}'
    fine, said = compiles(command, path)
    if only and compiler not in only[1].split():
        return (0, 'accepted by this compiler') if fine else (1, f'only {only[1]} may refuse it:\n{said}')
    if fine:
        return 1, 'must not compile, yet does'
    for words in expected:
        if not re.search(words, said):
            return 1, f'refused, but not with "{words}":\n{said}'
    return 0, 'refused as it should be'


def main():
    path, family, version = sys.argv[1:4]
    code, message = check(path, family + version.split('.')[0], sys.argv[5:])
    print(f'{path}: {message}')
    return code


if __name__ == '__main__':
    sys.exit(main())
