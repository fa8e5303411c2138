#!/bin/sh
# SPDX-License-Identifier: BSL-1.0
# examples/demo.sh BUILDDIR: the main job on real input. serve gives out real files, curl fetches
# some hundreds of them, each byte is compared; copy copies a real tree, diff compares it.
set -eu
build=${1:?usage: examples/demo.sh BUILDDIR}
serve=$build/examples/serve
copy=$build/examples/copy

work=$(mktemp -d)
server=
clean_up() {
  [ -z "$server" ] || kill "$server" 2>/dev/null || true
  rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 1' INT TERM HUP

say() { printf '\n== %s\n' "$*"; }
fail() { printf 'demo: %s\n' "$*" >&2; exit 1; }

# The first real tree with enough files to serve; slim images have no documentation.
root=
for tree in /usr/share/doc /usr/include /usr/share /usr/lib; do
  [ -d "$tree" ] || continue
  find "$tree" -xdev -type f -size -2048k -readable 2>/dev/null | LC_ALL=C sort | head -n 400 \
    > "$work/files"
  [ "$(wc -l < "$work/files")" -lt 300 ] || { root=$tree; break; }
done
[ -n "$root" ] || fail "no tree here has 300 files to serve"

say "serving $root, fetching $(wc -l < "$work/files") of its files with curl"
"$serve" --port 0 "$root" > "$work/served" 2>&1 &
server=$!
url=
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
  url=$(sed -n 's|.*\(http://[^ ]*\)/$|\1|p' "$work/served")
  [ -z "$url" ] || break
  kill -0 "$server" 2>/dev/null || { cat "$work/served"; fail "the server did not start"; }
  sleep 0.1
done
[ -n "$url" ] || fail "the server says no address"

# One curl configuration a half: the first over one connection, the second in parallel.
python3 - "$root" "$url" "$work" << 'PYTHON'
import os, sys, urllib.parse
root, url, work = sys.argv[1:]
with open(work + "/files", "rb") as listed:
    files = listed.read().splitlines()
def quote(text):
    return text.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
for half, part in (("one", files[: len(files) // 2]), ("many", files[len(files) // 2 :])):
    with open(f"{work}/{half}", "wb") as config:
        for path in part:
            name = os.path.relpath(path, root.encode())
            config.write(b'url = "%s/%s"\n' % (url.encode(), urllib.parse.quote(name).encode()))
            config.write(b'output = "%s/got/%s"\n' % (work.encode(), quote(name)))
PYTHON
curl --fail --silent --show-error --create-dirs --globoff -K "$work/one"
curl --fail --no-progress-meter --create-dirs --globoff --parallel --parallel-max 16 -K "$work/many"
while IFS= read -r file; do
  cmp "$file" "$work/got/${file#"$root"/}" || fail "$file came back changed"
done < "$work/files"
echo "every byte is the same: $(find "$work/got" -type f | wc -l) files, $(du -sh "$work/got" | cut -f1)"

largest=$(xargs -d '\n' ls -S < "$work/files" | sed -n 1p)
curl --fail --silent --show-error --range 100-1099 "$url/${largest#"$root"/}" -o "$work/range"
tail -c +101 "$largest" | head -c 1000 | cmp - "$work/range" || fail "a range came back changed"
echo "a range of $largest is right, too"

kill -INT "$server"
wait "$server" || fail "the server ended with an error"
server=
sed 1d "$work/served"

tree=/usr/include
[ -d "$tree" ] && [ "$(find "$tree" -xdev -type f | head -n 100 | wc -l)" -eq 100 ] || tree=$root
say "copying $tree ($(find "$tree" -xdev -type f | wc -l) files)"
"$copy" "$tree" "$work/copy"
diff -r --no-dereference "$tree" "$work/copy" || fail "the copy differs"
echo "diff -r finds no difference"
