#!/bin/sh
# SPDX-License-Identifier: BSL-1.0
# README's commands in the fresh Debian 12 of `./dev fresh`, which has the checkout at /iowq.
#
#   fresh.sh root    as root in /root, mode 0700, with a umask of 077; there is no /etc/hosts
#   fresh.sh user    as an ordinary user with a German locale, a TMPDIR with a space, and no IPv6
set -eu

copy_checkout() {
  mkdir "$1"
  tar -C /iowq --exclude=./build --exclude=./.git -cf - . | tar -C "$1" --no-same-owner -xf -
}

# shellcheck disable=SC2016  # expanded by the inner shell
commands='
  set -e
  cd "$HOME/iowq"
  date +%s >"$HOME/began"
  ./dev demo
  echo "fresh: ./dev demo took $(($(date +%s) - $(cat "$HOME/began"))) s"
  date +%s >"$HOME/began"
  ./dev test
  echo "fresh: ./dev test took $(($(date +%s) - $(cat "$HOME/began"))) s"'

case $1 in
  root)
    umask 077
    chmod 700 /root
    copy_checkout /root/iowq
    sh -c "$commands"
    ;;
  user)
    # What needs root, here and in ./dev, happens before.
    /iowq/dev packages demo
    /iowq/dev packages test
    DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends -o Dpkg::Use-Pty=0 \
      install iproute2 locales >/dev/null
    localedef -i de_DE -f UTF-8 de_DE.UTF-8
    id reader >/dev/null 2>&1 || useradd --create-home reader
    copy_checkout /home/reader/iowq
    mkdir '/home/reader/temporary files'
    chown -R reader: /home/reader
    # shellcheck disable=SC2016  # expanded by the inner shell
    exec unshare --net sh -euc '
      ip link set lo up
      if [ -e /proc/sys/net/ipv6 ]; then echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6; fi
      exec runuser -u reader -- env HOME=/home/reader LANG=de_DE.UTF-8 \
        TMPDIR="/home/reader/temporary files" sh -c "$1"' sh "$commands"
    ;;
esac
