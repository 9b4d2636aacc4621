#!/usr/bin/env bash
# Sees to what a build of llama.cpp needs: installs it with apt-get where that is there and allowed,
# else says what to install. Quick and quiet when nothing is missing.
set -euo pipefail

has_libclang() {
    [ -n "${LIBCLANG_PATH:-}" ] && return 0
    compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null && return 0
    compgen -G '/usr/lib/*/libclang*.so*' >/dev/null && return 0
    compgen -G '/usr/lib*/libclang*.so*' >/dev/null && return 0
    # macOS: the command line tools bring one.
    [ "$(uname)" = Darwin ] && xcode-select -p >/dev/null 2>&1
}

has_clang_headers() {
    command -v clang >/dev/null && return 0
    compgen -G '/usr/lib/llvm-*/lib/clang/*/include/stddef.h' >/dev/null && return 0
    compgen -G '/usr/lib*/clang/*/include/stddef.h' >/dev/null && return 0
    [ "$(uname)" = Darwin ]
}

missing=()
command -v cmake >/dev/null || missing+=(cmake)
command -v c++ >/dev/null || missing+=(g++)
# bindgen wants clang's own headers (stddef.h) too, which Debian's libclang-dev brings along.
has_libclang && has_clang_headers || missing+=(libclang-dev)

if ! command -v cargo >/dev/null; then
    echo "There is no Rust toolchain: install it from https://rustup.rs, then try again." >&2
    exit 1
fi
[ ${#missing[@]} -eq 0 ] && exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    as_root=(sudo -n)
fi
if command -v apt-get >/dev/null && { [ "$(id -u)" -eq 0 ] || sudo -n true 2>/dev/null; }; then
    echo "Installing ${missing[*]} ..." >&2
    "${as_root[@]}" apt-get update -qq
    DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq "${missing[@]}" >/dev/null
else
    echo "Building llama.cpp needs ${missing[*]}. Install them and try again, for example:" >&2
    echo "  Debian, Ubuntu:  sudo apt-get install ${missing[*]}" >&2
    echo "  Fedora:          sudo dnf install cmake gcc-c++ clang-devel" >&2
    echo "  macOS:           xcode-select --install && brew install cmake" >&2
    exit 1
fi
