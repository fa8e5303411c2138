#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""Proves the claims of a Promela model with spin, and that the model would notice were they false.

    check.py MODEL.pml [--thorough] [--only WORDS]

Each line is one exhaustive search. "holds": no reachable state breaks an assertion ("safety"), and
under weak fairness every run keeps the ltl claim ("liveness"). "found out": with one rule of the
protocol broken, by a macro in the model, the search ends in an error. Exits 0 if all is as it
should be, 77 where spin is missing. --thorough searches larger instances, in some minutes and
4 GB; --only those lines that contain WORDS.
"""

import argparse
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

# Searches that must find no error: (kind of search, macros), and the same as a longer search.
HOLDS = {
    'sleep': [
        ('safety', 'FAILURES=0'),
        ('safety', 'ITEMS=2'),
        ('safety', 'ITEMS=2 EXIT_ON_IDLE=true'),
        ('liveness', 'ITEMS=2'),
    ],
    'chain': [
        ('safety', 'ENQUEUED=5'),
        ('safety', 'CLASSES'),
        ('safety', 'ALL CANCELLERS=1'),
        ('liveness', 'ENQUEUED=5 CANCELLERS=1'),
    ],
}
LARGE = {('safety', 'FAILURES=0')}
THOROUGH = {
    'sleep': [
        ('safety', ''),
        ('safety', 'EXIT_ON_IDLE=true'),
        ('liveness', 'FAILURES=0'),
        ('liveness', 'ITEMS=2 EXIT_ON_IDLE=true'),
    ],
    'chain': [
        ('safety', ''),
        ('safety', 'ALL'),
        ('liveness', 'ALL CANCELLERS=1'),
        ('liveness', 'ALL CLASSES'),
    ],
}

# Searches that must find an error: the macro that breaks a rule, and macros that expose it.
BROKEN = {
    'sleep': {
        'WAKE_NOBODY': 'ITEMS=2',
        'UNPARK_NOBODY': 'ITEMS=2',
        'DECIDE_BEFORE_INSERT': 'ITEMS=2',
        'WATCH_UNCALLED': '',
        'WATCH_ONLY_WITHOUT_IDLE': '',
        'PARK_IN_A_SECOND_SECTION': 'ITEMS=2',
        'IDLE_IN_A_SECOND_SECTION': 'ITEMS=2',
        'TIMEOUT_WINS': 'ITEMS=2 FAILURES=0',
        'LOOK_THEN_STORE': 'ITEMS=2',
        'SLEEP_BY_A_STORE': 'ITEMS=2',
        'ASK_THE_WORD': 'ITEMS=2',
        'COUNT_YOURSELF': 'ITEMS=2',
        'FAIL_IN_PLACE': 'ITEMS=2',
        'LOOK_AND_FORGET': 'ITEMS=2 FAILURES=0',
    },
    'chain': {
        'LOSE_THE_HEIR': 'CANCELLERS=1',
        'NEWEST_FIRST': 'CANCELLERS=1',
        'FREE_THE_KEY': 'CANCELLERS=1',
        'FORGET_THE_TAIL': 'CANCELLERS=1',
        'LEADER_KEEPS_ITS_KEY': 'CANCELLERS=1',
        'UNKEYED_ENDS_A_KEY': 'CANCELLERS=1',
        'TAKE_IN_TWO_SECTIONS': 'CANCELLERS=1',
        'HEIR_UNSETTLED': 'CLASSES CANCELLERS=1',
        'HOLD_NOBODY': 'CANCELLERS=1',
        'KEEP_THE_TOKEN': 'CANCELLERS=1',
    },
}
# In these nothing ever comes to rest, so only the claim about every run can notice.
RESTLESS = {'LOOK_AND_FORGET'}
VARIANTS = {'ALL', 'CLASSES'}  # macros that break nothing

SEARCH = {
    'safety': (['-DSAFETY', '-DNOCLAIM'], []),
    'liveness': (['-DNFAIR=3'], ['-a', '-f']),
}


def run(command, where):
    done = subprocess.run(command, cwd=where, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        sys.exit(f'{" ".join(command)}:\n{done.stdout}')
    return done.stdout


def search(model, kind, macros, optimise):
    """Errors found, states seen, and the first error in words."""
    defines = ['-D' + macro for macro in macros.split()]
    compiled, started = SEARCH[kind]
    with tempfile.TemporaryDirectory() as where:
        run(['spin', '-a', *defines, str(model)], where)
        run(['cc', optimise, '-w', *compiled, '-o', 'pan', 'pan.c'], where)
        # -E: an end with sleeping processes is not always an error; the model itself decides that.
        said = run(['./pan', '-E', '-n', '-m1000000', '-w24', *started], where)
    errors = int(re.search(r'errors: (\d+)', said)[1])
    states = int(float(re.search(r'^ *([\d.e+]+) states, stored', said, re.M)[1]))
    why = re.search(r'^pan:1: (.*) \(at depth', said, re.M)
    if 'max search depth too small' in said or 'out of memory' in said:
        sys.exit(f'{model} {macros}: was not searched to its end:\n{said}')
    if errors == 0 and 'Search not completed' in said:
        sys.exit(f'{model} {macros}: was not searched to its end:\n{said}')
    return errors, states, why[1] if why else ''


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('model', type=pathlib.Path)
    parser.add_argument('--thorough', action='store_true')
    parser.add_argument('--only', default='')
    asked = parser.parse_args()
    model = asked.model.resolve()
    name = model.stem
    for tool in ('spin', 'cc'):
        if shutil.which(tool) is None:
            print(f'skipped: model {name}: there is no {tool} here')
            return 77

    broken = BROKEN[name]
    known = set(re.findall(r'defined\((\w+)\)', model.read_text())) - VARIANTS
    if known != broken.keys():
        print(f'{model}: the rules that can be broken are not those of check.py: '
              f'{", ".join(sorted(known ^ broken.keys()))}')
        return 1

    wrong = 0
    # Most searches take less time than to compile them well would.
    lines = [(kind, macros, '', '-O1' if (kind, macros) in LARGE else '-O0')
             for kind, macros in HOLDS[name]]
    if asked.thorough:
        lines += [(kind, macros, '', '-O2') for kind, macros in THOROUGH[name]]
    lines += [('liveness' if rule in RESTLESS else 'safety', macros, rule, '-O0')
              for rule, macros in broken.items()]
    for kind, macros, rule, optimise in lines:
        title = f'{kind:8} {rule} {macros}'.rstrip()
        if asked.only not in title:
            continue
        began = time.monotonic()
        errors, states, why = search(model, kind, f'{rule} {macros}', optimise)
        good = (errors > 0) == (rule != '')
        wrong += not good
        verdict = 'WRONG' if not good else 'found out' if rule else 'holds'
        print(f'{name} {title:48} {verdict:9} {states:9} states {time.monotonic() - began:5.1f} s'
              f'{"  " + why if why else ""}', flush=True)
    print(f'{name}: {"all as it should be" if wrong == 0 else f"{wrong} WRONG"}')
    return wrong != 0


if __name__ == '__main__':
    sys.exit(main())
