# SPDX-License-Identifier: BSL-1.0
"""Runs a program as a user who may read neither the checkout nor a private directory."""
import contextlib
import os
import pathlib
import shutil
import tempfile

OTHER = 65534


def is_open_to_all(directory):
    """True if every user may enter `directory`, whose parents are checked also."""
    path = pathlib.Path(directory).resolve()
    return all(place.stat().st_mode & 0o001 for place in (path, *path.parents))


def temporary_directory():
    """A temporary directory that every user may enter and list, even if TMPDIR is private."""
    places = (tempfile.gettempdir(), "/tmp", "/var/tmp")
    place = next((one for one in places if os.path.isdir(one) and is_open_to_all(one)), None)
    made = tempfile.TemporaryDirectory(dir=place)
    os.chmod(made.name, 0o755)
    return made


@contextlib.contextmanager
def copy_of(program):
    """The path of a copy of `program` that every user may execute."""
    with temporary_directory() as directory:
        copy = os.path.join(directory, os.path.basename(program))
        shutil.copyfile(program, copy)
        os.chmod(copy, 0o755)
        yield copy


@contextlib.contextmanager
def as_other_user(program):
    """The words of a command that runs `program` as a user without privileges."""
    if os.geteuid() != 0:
        yield [program]
        return
    with copy_of(program) as copy:
        yield ["setpriv", f"--reuid={OTHER}", f"--regid={OTHER}", "--clear-groups", copy]
