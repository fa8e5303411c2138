#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""Every operation agrees with its system call, on every file system that can be had here.

    parity.py ROOT PROGRAM

Runs PROGRAM, which compares, on tmpfs, ext4, xfs and btrfs. As root, mounts an image of each in a
mount namespace of its own. Names the file systems that are not possible here. Then checks that
every row of docs/operations.md was used.
"""

import contextlib
import ctypes
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

IMAGES = {  # the command that makes it, and the size of its image
    'ext4': (['mkfs.ext4', '-q', '-F'], 64),
    'xfs': (['mkfs.xfs', '-q', '-f'], 320),
    'btrfs': (['mkfs.btrfs', '-q', '-f'], 128),
}
SEEDS, STEPS = 12, 250


def own_mounts():
    """From here on what we mount is ours alone, and gone when we end. Why not, else None."""
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() != 0:
        return 'needs root'
    if libc.unshare(0x20000) != 0:  # CLONE_NEWNS
        return f'unshare: {os.strerror(ctypes.get_errno())}'
    done = subprocess.run(['mount', '--make-rprivate', '/'], capture_output=True, text=True)
    return done.stderr.strip() or None


def mounted(kind, where, scratch):
    """Mounts one file system; says why it cannot, else None."""
    where.mkdir()
    if kind == 'tmpfs':
        command = ['mount', '-t', 'tmpfs', '-o', 'size=64m', 'parity', where]
    else:
        make, megabytes = IMAGES[kind]
        if not shutil.which(make[0], path=os.environ.get('PATH', '') + ':/usr/sbin:/sbin'):
            return f'no {make[0]}'
        image = scratch / f'{kind}.image'
        with open(image, 'wb') as file:
            file.truncate(megabytes << 20)
        made = subprocess.run([*make, image], capture_output=True, text=True)
        if made.returncode != 0:
            return made.stderr.strip()
        command = ['mount', '-t', kind, '-o', 'loop', image, where]
    done = subprocess.run(command, capture_output=True, text=True)
    return None if done.returncode == 0 else done.stderr.strip().replace('\n', ' ')


def main():
    root, program = pathlib.Path(sys.argv[1]), sys.argv[2]
    faults, used = [], set()
    os.environ['PATH'] = os.environ.get('PATH', '') + ':/usr/sbin:/sbin'
    # Not in /tmp, which may be the tmpfs that we have already.
    with tempfile.TemporaryDirectory(prefix='iowq-parity-', dir='/var/tmp') as name:
        scratch = pathlib.Path(name)
        places = {'the file system of /var/tmp': scratch}
        why_not = own_mounts()
        for kind in 'tmpfs', *IMAGES:
            reason = why_not or mounted(kind, scratch / kind, scratch)
            if reason:
                print(f'skipped: parity on {kind}: {reason}')
            else:
                places[kind] = scratch / kind
        for kind, place in places.items():
            done = subprocess.run([program, place, str(SEEDS), str(STEPS)], capture_output=True, text=True)
            if done.returncode == 77:
                print(done.stdout.strip())
                return 77
            used |= set(re.findall(r'^row (\w+)$', done.stdout, re.MULTILINE))
            said = re.sub(r'^row \w+\n', '', done.stdout, flags=re.MULTILINE)
            if done.returncode == 0:
                print(f'{kind}: {SEEDS} programs of {STEPS} steps agree')
            else:
                faults.append(f'{kind} (exit {done.returncode}):\n{said}{done.stderr}')
        for kind in list(places)[1:]:
            with contextlib.suppress(OSError):
                subprocess.run(['umount', '-l', places[kind]], check=False)
    rows = set(re.findall(r'^\| `(\w+)` \|', (root / 'docs' / 'operations.md').read_text(), re.MULTILINE))
    print(f'{len(rows)} rows, {len(rows & used)} of them in a program')
    for row in sorted(rows - used):
        faults.append(f'no program of tests/parity uses {row}')
    for row in sorted(used - rows):
        faults.append(f'{row} is no row')
    for fault in faults:
        print(fault)
    return 1 if faults else 0


if __name__ == '__main__':
    sys.exit(main())
