#!/usr/bin/env bash
# CUDA: host memory that is registered piece by piece cannot be copied across a seam.
#
# Registering takes time, so that several threads, each with a piece of a buffer, look like the way to pin
# a model faster. Memory that is not registered at all may be copied in any pieces.
#
# Guessed before running: a copy across two pieces works, since all of it is pinned.
# Seen (driver 580.159, H100): cudaMemcpy says cudaErrorInvalidValue (1) if the source begins in one registered
# piece and ends in the next, though both are registered and adjacent. One call for the whole is no
# slower: 3 GiB in 0.09 s where the memory is in huge pages and was touched before.
#
# Needs python3 with pip and an NVIDIA GPU; without one it says so and ends with status 2.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q nvidia-cuda-runtime==13.0.96
library=$(find "$work/venv" -name 'libcudart.so.13' | head -n 1)

"$work/venv/bin/python" - "$library" <<'PYTHON'
import ctypes, mmap, sys

cuda = ctypes.CDLL(sys.argv[1])
BYTES = 64 << 20
HALF = BYTES // 2
TO_DEVICE = 1
INVALID_VALUE = 1


def call(name, *arguments):
    return getattr(cuda, name)(*arguments)


device = ctypes.c_void_p()
status = call("cudaMalloc", ctypes.byref(device), ctypes.c_size_t(BYTES))
if status != 0:
    print(f"no usable GPU: cudaMalloc says {status}")
    sys.exit(2)
version = ctypes.c_int()
call("cudaRuntimeGetVersion", ctypes.byref(version))
memory = mmap.mmap(-1, BYTES)
start = ctypes.addressof(ctypes.c_char.from_buffer(memory))


def copy(offset, count):
    status = call("cudaMemcpy", device, ctypes.c_void_p(start + offset), ctypes.c_size_t(count), TO_DEVICE)
    call("cudaGetLastError")
    return status


def register(*pieces):
    for offset, count in pieces:
        assert call("cudaHostRegister", ctypes.c_void_p(start + offset), ctypes.c_size_t(count), 0) == 0


def unregister(*offsets):
    for offset in offsets:
        assert call("cudaHostUnregister", ctypes.c_void_p(start + offset)) == 0


print(f"CUDA runtime {version.value}")
seen = {"not registered, all": copy(0, BYTES)}
register((0, HALF), (HALF, HALF))
seen["two pieces, the first"] = copy(0, HALF)
seen["two pieces, the second"] = copy(HALF, HALF)
seen["two pieces, all"] = copy(0, BYTES)
unregister(0, HALF)
register((0, BYTES))
seen["one piece, all"] = copy(0, BYTES)
unregister(0)
expected = {name: INVALID_VALUE if name == "two pieces, all" else 0 for name in seen}
for name, status in seen.items():
    print(f"{name:24} {status}")
sys.exit(seen != expected)
PYTHON
