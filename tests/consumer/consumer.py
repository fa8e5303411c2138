#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""Builds and runs main.cpp as users do, in a temporary directory.

    consumer.py ROOT (pkg-config|cmake|meson|subproject) -- COMPILER...
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

SKIPPED = 77
HERE = pathlib.Path(__file__).parent


def run(*command, **more):
    words = [str(word) for word in command]
    print('$', ' '.join(words), flush=True)
    return subprocess.run(words, check=True, stdin=subprocess.DEVNULL, **more)


def install(root, where):
    """Installs iowq under a prefix and returns that."""
    prefix = where / 'prefix'
    run('meson', 'setup', where / 'iowq-build', root, '--prefix', prefix, '-Dtests=disabled',
        '-Dexamples=disabled', '-Dbenchmarks=disabled')
    run('meson', 'install', '-C', where / 'iowq-build', '--quiet')
    os.environ['PKG_CONFIG_PATH'] = str(prefix / 'share' / 'pkgconfig')
    return prefix


def by_pkg_config(root, where, compiler):
    install(root, where)
    flags = run('pkg-config', '--cflags', '--libs', 'iowq', stdout=subprocess.PIPE, text=True)
    run(*compiler, '-std=c++20', where / 'main.cpp', *flags.stdout.split(), '-o', where / 'consumer')
    return where / 'consumer'


def by_cmake(root, where, compiler):
    prefix = install(root, where)
    run('cmake', '-S', where, '-B', where / 'build', f'-DCMAKE_PREFIX_PATH={prefix}')
    run('cmake', '--build', where / 'build')
    return where / 'build' / 'consumer'


def by_meson(root, where, compiler):
    install(root, where)
    return meson_program(where)


def by_subproject(root, where, compiler):
    target = where / 'subprojects' / 'iowq'
    ignored = shutil.ignore_patterns('build', '.*', 'tests', 'examples', 'benchmarks')
    shutil.copytree(root, target, ignore=ignored)
    (where / 'subprojects' / 'iowq.wrap').write_text(
        '[wrap-file]\ndirectory = iowq\n\n[provide]\ndependency_names = iowq\n')
    return meson_program(where)


def meson_program(where):
    shutil.copy(HERE / 'program.meson', where / 'meson.build')
    run('meson', 'setup', where / 'build', where)
    run('meson', 'compile', '-C', where / 'build')
    return where / 'build' / 'consumer'


WAYS = {'pkg-config': by_pkg_config, 'cmake': by_cmake, 'meson': by_meson,
        'subproject': by_subproject}


def main():
    root, way, compiler = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[4:]
    tool = 'meson' if way == 'subproject' else way
    if shutil.which(tool) is None:
        print(f'there is no {tool} here')
        return SKIPPED
    os.environ['CXX'] = ' '.join(compiler)
    with tempfile.TemporaryDirectory() as name:
        where = pathlib.Path(name)
        for file in ('main.cpp', 'CMakeLists.txt'):
            shutil.copy(HERE / file, where)
        run(WAYS[way](root, where, compiler))
    return 0


if __name__ == '__main__':
    sys.exit(main())
