# SPDX-License-Identifier: BSL-1.0
"""Mistakes put into copies of the headers: what tests/explore and tests/random have in common."""

import shutil
import subprocess
import sys
from typing import NamedTuple


class Mutant(NamedTuple):
    """`right` occurs in the header exactly once; `wrong` stands there instead."""
    name: str
    header: str
    right: str
    wrong: str
    models: tuple = ()  # tests/explore: those that must fail


def slug(name):
    return ''.join(letter if letter.isalnum() else '_' for letter in name)


def mutate(mutant, root, scratch):
    """A copy of the headers with the mistake in it; why not, if that cannot be."""
    copy = scratch / slug(mutant.name)
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(root / 'include', copy / 'include')
    header = copy / 'include' / 'iowq' / mutant.header
    text = header.read_text()
    if (found := text.count(mutant.right)) != 1:
        sys.exit(f'{mutant.header} has this {found} times, not once:\n{mutant.right}')
    header.write_text(text.replace(mutant.right, mutant.wrong))
    return copy


def build(copy, source, compiler, *libraries):
    """The program of `source` with the headers of `copy`."""
    program = copy / 'program'
    # No warnings: a mutant leaves things unused.
    subprocess.run([*compiler, '-w', '-O0', '-std=c++20', f'-I{copy}/include', source,
                    '-o', program, *libraries], check=True)
    return program
