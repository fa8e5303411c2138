#!/usr/bin/env python3
# SPDX-License-Identifier: BSL-1.0
"""Boots Debian kernels under software emulation, with two NUMA nodes and four processors, and runs
the statically linked tests there. No root needed. See `./dev vm`.

    run.py BUILD CACHE [--quick] [--only WORD] [--within SECONDS] [SERIES...]

Kernels come from Debian by apt, signatures checked, into CACHE, and are unpacked, not installed.
How each program ended is left in BUILD/vm-testlog.json, in the manner of Meson's own log.
"""

import argparse
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

here = Path(__file__).resolve().parent

# The newest kernel of each series, wherever Debian has it.
sources = ["debian {} main".format(suite) for suite in ("bookworm", "trixie", "bullseye")] + [
    "debian-security {}-security main".format(suite) for suite in ("bookworm", "trixie", "bullseye")
]
modules = ["loop", "dm-mod", "dm-flakey"]

# Under emulation everything takes ten to thirty times as long, so what does a million of something
# is left out: it runs on the host.
many = "-tce=*million*,wq-67*,wq-11*,wq-34*,wq-44*,hazard-101*,memory?grows*"
programs = """\
machine
queue
ring
pool
exec
op
flow
sync
death
exec IOWQ_BACKEND=poll
op IOWQ_BACKEND=poll
sync IOWQ_BACKEND=poll
""".splitlines()
all_series = ["6.1", "6.12", "5.10"]

# The tests that fit into a lane of CI: on each kernel those of the machine, and once each the
# layers that depend most on the kernel. Only some suites of the longest layer run.
quick = {"6.1": ["machine", "exec"], "6.12": ["machine", "op"], "5.10": ["machine", "pool"]}
quick_arguments = {"op": "-ts=op/file,op/many,op/linked,op/fixed_file,op/socket"}
quick_patience = 120  # for one program, in seconds


class Failure(Exception):
    pass


def run(*command, **more):
    return subprocess.run(command, check=True, **more)


def apt(cache):
    """The options that keep apt to our own sources and directories."""
    for needed in ("lists/partial", "cache/archives/partial"):
        (cache / "apt" / needed).mkdir(parents=True, exist_ok=True)
    mirror = os.environ.get("IOWQ_MIRROR", "http://deb.debian.org")
    keys = "/usr/share/keyrings/debian-archive-keyring.gpg"
    listed = cache / "apt" / "sources.list"
    listed.write_text("".join(
        "deb [signed-by={}] {}/{}\n".format(keys, mirror, source) for source in sources))
    return ["-o", "Dir::Etc::sourcelist={}".format(listed), "-o", "Dir::Etc::sourceparts=-",
            "-o", "Dir::State::lists={}/apt/lists".format(cache),
            "-o", "Dir::Cache={}/apt/cache".format(cache),
            "-o", "APT::Sandbox::User=", "-o", "Acquire::Languages=none", "-o", "Debug::NoLocking=1"]


def kernel(cache, series):
    """The unpacked directory of the newest kernel of `series`; fetched if it is missing."""
    kept = sorted((cache / "kernels").glob(series + ".*"))
    if kept:
        return kept[-1]
    options = apt(cache)
    lists = cache / "apt" / "lists"
    if not list(lists.glob("*Packages*")):
        run("apt-get", *options, "-qq", "update")
    found = subprocess.run(["apt-cache", *options, "search", "--names-only",
                            r"^linux-image-{}\.[0-9].*-cloud-amd64$".format(re.escape(series))],
                           check=True, capture_output=True, text=True).stdout
    names = [line.split()[0] for line in found.splitlines() if "deb11" not in line.split()[0]]
    if not names:
        raise Failure("Debian has no kernel {} for the cloud any more".format(series))
    numbers = lambda name: [int(n) for n in re.findall(r"\d+", name)]
    name = max(names, key=numbers)
    fetched = cache / "fetched"
    fetched.mkdir(exist_ok=True)
    run("apt-get", *options, "-qq", "download", name, cwd=fetched)
    package = next(fetched.glob(name.replace("+", "*") + "_*.deb"))
    place = cache / "kernels" / (series + "." + "-".join(name.split("-")[2:-2]).split(".", 2)[-1])
    part = place.with_suffix(".part")
    run("dpkg-deb", "-x", str(package), str(part))
    part.rename(place)
    package.unlink()
    return place


def copy_modules(source, target):
    """Ours, and what they need, unpacked, with a list in the order in which to load them."""
    target.mkdir()
    order = []
    files = {path.name.split(".ko")[0].replace("_", "-"): path for path in source.rglob("*.ko*")}

    def add(name):
        path = files.get(name)
        if path is None or name in order:
            return  # built in
        data = path.read_bytes()
        if path.suffix == ".xz":
            import lzma
            data = lzma.decompress(data)
        needs = re.search(rb"\0depends=([^\0]*)\0", data)
        for needed in needs.group(1).decode().split(",") if needs else ():
            if needed:
                add(needed.replace("_", "-"))
        (target / (name + ".ko")).write_bytes(data)
        order.append(name)

    for name in modules:
        add(name)
    (target / "order").write_text("".join(name + ".ko\n" for name in order))


def copy_program(program, root):
    """A dynamically linked program, with its libraries."""
    shutil.copy(program, root / "bin")
    listed = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    for library in re.findall(r"(/\S+)", listed):
        place = root / library.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, place)


def initramfs(build, place, image, plan, arguments):
    root = image.with_suffix(".root")
    shutil.rmtree(root, ignore_errors=True)
    for directory in ("bin", "tests", "proc", "sys", "dev", "tmp", "etc", "lib", "lib64"):
        (root / directory).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin")
    copy_program("/sbin/dmsetup", root)
    shutil.copy(here / "init", root)
    (root / "init").chmod(0o755)
    (root / "etc" / "hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
    (root / "etc" / "passwd").write_text("root:x:0:0:root:/tmp:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")
    (root / "etc" / "group").write_text("root:x:0:\nnogroup:x:65534:\n")
    # `-` is the environment as it is.
    lines = ["vm_{} {} {} {}\n".format(*(one.split() + ["-"])[:2], many, arguments.get(one, ""))
             for one in plan]
    (root / "tests" / "list").write_text("".join(lines))
    for name in {line.split()[0] for line in lines} | {"vm_copy"}:
        run("strip", "-o", str(root / "tests" / name), str(build / "tests" / "vm" / name))
    copy_modules(next(place.glob("**/lib/modules/*")), root / "modules")
    names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
    packed = subprocess.run(["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0"], cwd=root, check=True,
                            input=names.encode(), stdout=subprocess.PIPE).stdout
    image.write_bytes(gzip.compress(packed, 1))
    shutil.rmtree(root)


def boot(place, image, log, patience, for_one):
    """Runs the machine to its power-off, and each program for so long at most; what it said."""
    command = [
        "qemu-system-x86_64", "-nographic", "-no-reboot", "-nodefaults", "-serial", "stdio",
        "-accel", "tcg,thread=multi", "-machine", "q35", "-cpu", "max", "-smp", "4", "-m", "1536M",
        "-object", "memory-backend-ram,id=m0,size=768M",
        "-object", "memory-backend-ram,id=m1,size=768M",
        "-numa", "node,nodeid=0,cpus=0-1,memdev=m0", "-numa", "node,nodeid=1,cpus=2-3,memdev=m1",
        "-kernel", str(next((place / "boot").glob("vmlinuz-*"))), "-initrd", str(image),
        # The kernel passes parameters that it does not know to init, as environment variables.
        "-append", "console=ttyS0 panic=-1 quiet rdinit=/init for_one={}".format(for_one)]
    with open(log, "wb") as out:
        try:
            subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                           timeout=patience)
        except subprocess.TimeoutExpired:
            out.write(b"\niowq-vm: the machine did not turn itself off in time\n")
    return log.read_text(errors="replace").replace("\r", "")


def skipped(series, plan, why):
    print("\n==== {}: skipped: {}".format(series, why), flush=True)
    return [{"name": "{} {}".format(series, one), "result": "SKIP", "duration": 0.0,
             "stdout": "skipped: {} {} | {}\n".format(series, one, why)} for one in plan]


def ends_in(said):
    """The exit status, the seconds and the output of each program."""
    ended, lines = {}, []
    for line in said.splitlines():
        if found := re.match(r"iowq-vm: vm_(\S+) (\S+): exit (\d+), (\d+) s", line):
            ended[" ".join(found.group(1, 2))] = (*found.group(3, 4), "\n".join(lines))
        lines = [] if line.startswith("iowq-vm") else [*lines, line]
    return ended


def try_series(build, cache, series, plan, deadline, is_quick):
    """Boots it and runs what is planned; how each of the programs ended, as Meson tells it."""
    began = time.monotonic()
    try:
        place = kernel(cache, series)
    except (Failure, subprocess.CalledProcessError) as error:
        if not is_quick:
            raise
        return skipped(series, plan, "no kernel to be had: {}".format(error))
    image = cache / "initramfs-{}.gz".format(series)
    initramfs(build, place, image, plan, quick_arguments if is_quick else {})
    said = boot(place, image, build / "vm-{}.log".format(series), deadline - time.monotonic(),
                quick_patience if is_quick else 300)
    # On a slow machine the time for all may be over before that for one.
    in_time = time.monotonic() < deadline
    ended = ends_in(said)
    tests = []
    for one in plan:
        how, duration, text = ended.get(one if " " in one else one + " -", (None, 0, ""))
        unended = "TIMEOUT" if in_time or not is_quick else "SKIP"
        result = {"0": "OK", "77": "SKIP", "124": "TIMEOUT", None: unended}.get(how, "FAIL")
        if how is None and unended == "SKIP":
            text = "skipped: {} {} | the time for all of them was over\n".format(series, one)
        tests.append({"name": "{} {}".format(series, one), "result": result,
                      "duration": float(duration), "stdout": text})
    failed = sum(test["result"] not in ("OK", "SKIP") for test in tests)
    kernel_said = re.search(r"iowq-vm: kernel (.*)$", said, re.M)
    print("\n==== {}: {}".format(series, kernel_said.group(1) if kernel_said else "did not boot"))
    print("\n".join(line for line in said.splitlines()
                    if re.match(r"iowq-vm|skipped|\[doctest\]", line) or failed))
    print("==== {}: {} of {} programs passed, {:.0f} s".format(
        series, len(plan) - failed, len(plan), time.monotonic() - began), flush=True)
    return tests


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build", type=Path)
    parser.add_argument("cache", type=Path)
    parser.add_argument("series", nargs="*", metavar="SERIES")
    parser.add_argument("--quick", action="store_true", help="what fits into a lane of CI")
    parser.add_argument("--only", metavar="WORD", help="programs whose line has the word")
    parser.add_argument("--within", type=float, metavar="SECONDS", help="give up after that")
    wanted = parser.parse_intermixed_args()
    build, cache = wanted.build.resolve(), wanted.cache.resolve()
    end = time.monotonic() + wanted.within if wanted.within else None
    (cache / "kernels").mkdir(parents=True, exist_ok=True)
    tests = []
    for series in wanted.series or all_series:
        plan = [one for one in (quick.get(series, ["machine"]) if wanted.quick else programs)
                if wanted.only is None or wanted.only in one.split()]
        deadline = end or time.monotonic() + 1800
        if deadline <= time.monotonic():
            tests += skipped(series, plan, "{:.0f} s are over".format(wanted.within))
            continue
        tests += try_series(build, cache, series, plan, deadline, wanted.quick)
    (build / "vm-testlog.json").write_text("".join(json.dumps(test) + "\n" for test in tests))
    return 0 if all(test["result"] in ("OK", "SKIP") for test in tests) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Failure, subprocess.CalledProcessError) as why:
        sys.exit("run.py: {}".format(why))
