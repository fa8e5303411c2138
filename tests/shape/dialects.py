#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""The headers compile in every dialect of C++ that users choose, and after macros of others.

    dialects.py SOURCE COMPILER FLAG...
"""

import subprocess
import sys

DIALECTS = (
    (),
    ('-fno-char8_t',),
    ('-fno-rtti',),
    ('-std=gnu++20',),
    ('-std=c++2b',),
    ('-std=c++2c',),
)


def compiles(command, source, text=None):
    ran = subprocess.run([*command, '-fsyntax-only', source], input=text, text=True,
                         capture_output=True)
    return ran.returncode == 0, ran.stderr


def main(source, *compiler):
    failed = False
    for flags in DIALECTS:
        command = [*compiler, *flags]
        name = ' '.join(flags) or 'the default'
        if not compiles([*command, '-x', 'c++'], '-', 'int main() {}')[0]:
            print(f'skipped: {name}: this compiler does not know it')
            continue
        passed, said = compiles(command, source)
        print(f'{name}: {"ok" if passed else "FAILED"}')
        if not passed:
            print(*said.splitlines()[:6], sep='\n')
            failed = True
    return failed


sys.exit(main(*sys.argv[1:]))
