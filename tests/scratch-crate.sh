#!/usr/bin/env bash
# A crate outside the repository that depends on this one by path compiles the README's example
# unchanged and runs it, also where it ends in an error.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

mkdir "$scratch/src"
cat >"$scratch/Cargo.toml" <<TOML
[package]
name = "scratch"
version = "0.0.0"
edition = "2024"

[dependencies]
moe-offload = { path = "$root" }

[profile.release]
overflow-checks = true # as in the repository, so that its build of llama.cpp is used again
TOML
cp "$root/Cargo.lock" "$scratch/Cargo.lock"
# The example is the one block marked as Rust.
awk '/^```rust$/ {inside = 1; next} /^```$/ {inside = 0} inside' "$root/README.md" >"$scratch/src/main.rs"
grep -q 'fn main' "$scratch/src/main.rs"

export LLAMA_LIB_PROFILE=Release GGML_RPC=ON CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$root/target}"
cd "$scratch"
cargo build --release --quiet
output=$(MODEL="$root/examples/demo-model/demo-moe.gguf" "$CARGO_TARGET_DIR/release/scratch" 2>/dev/null)
for expected in 'policy   first-layers:2' 'blue' 'decode'; do
    if ! grep -q "$expected" <<<"$output"; then
        printf 'the example did not print "%s":\n%s\n' "$expected" "$output" >&2
        exit 1
    fi
done
if error=$(MODEL="$scratch/nowhere.gguf" "$CARGO_TARGET_DIR/release/scratch" 2>&1 >/dev/null); then
    echo "the example succeeds without a model" >&2
    exit 1
fi
if [ "$error" != "Error: cannot open \`$scratch/nowhere.gguf\`: No such file or directory (os error 2)" ]; then
    printf 'the example does not end in a message for people:\n%s\n' "$error" >&2
    exit 1
fi
echo "scratch crate: the README's example compiles and runs"
