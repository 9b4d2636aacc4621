#!/usr/bin/env bash
# GCC 12 and AMX tile configurations: which stores survive depends on what follows, not only on the level.
#
# Debian 12's GCC 12.2 declares `_tile_loadconfig` to read 8 of the 64 bytes of a tile configuration.
# Stores to the other bytes then look dead. ggml fills such a configuration on the stack.
#
# Guessed before running: they are dropped from -O2 on; neither -fno-dse nor -fno-tree-dse alone keeps
# them; what follows the call makes no difference.
# Seen, and each guess was wrong:
#   - they are dropped at -O1 too;
#   - -fno-dse alone keeps them (the pass on RTL drops them, so -fno-tree-dse alone does not help);
#   - a call of an unknown function after `_tile_loadconfig` keeps them at every level, so a probe that
#     calls anything afterwards finds no fault in a compiler that has it.
#
# Needs apt-get with Debian 12's packages, on x86-64. Installs nothing: the packages are unpacked in a temporary
# folder, and nothing that was compiled is run. Fails if a later GCC 12 behaves otherwise.
set -euo pipefail

version=12.2.0-14+deb12u1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
apt-get download -qq "g++-12=$version" "libgcc-12-dev=$version" libisl23 libmpc3 libmpfr6 libgmp10 2>/dev/null
for package in *.deb; do dpkg -x "$package" root; done
tools=root/usr/lib/gcc/x86_64-linux-gnu/12
export LD_LIBRARY_PATH=$work/root/usr/lib/x86_64-linux-gnu

cat >configure.cpp <<'TEXT'
#define _IMMINTRIN_H_INCLUDED // only the part that is needed
#include <amxtileintrin.h>
struct alignas(64) configuration {
    unsigned char  palette, start, reserved[14];
    unsigned short columns[16];
    unsigned char  rows[16];
};
void after();
void configure() {
    configuration tiles = {};
    tiles.palette = 1;
    tiles.rows[0] = ROWS;
    _tile_loadconfig(&tiles);
#ifdef THEN_CALL
    after();
#endif
}
TEXT

compiled() { "$tools/cc1plus" -quiet -mamx-tile -isystem "$tools/include" "$@" configure.cpp -o - | grep -v '\.ident'; }
# A value that the assembly does not depend on was never stored.
stores() { if [ "$(compiled "$@" -DROWS=7)" = "$(compiled "$@" -DROWS=9)" ]; then echo dropped; else echo kept; fi; }

failures=0
see() {
    local expected=$1 seen
    shift
    seen=$(stores "$@")
    printf '%-36s %s\n' "$*" "$seen"
    [ "$seen" = "$expected" ] || failures=$((failures + 1))
}
echo "GCC $version"
for level in -O1 -O2 -O3; do
    see dropped $level
    see kept $level -fno-dse
    see dropped $level -fno-tree-dse
    see kept $level -DTHEN_CALL
done
see kept -O0
if [ "$failures" -gt 0 ]; then
    echo "$failures of 13 are otherwise than they were" >&2
    exit 1
fi
