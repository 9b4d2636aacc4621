// From how many tokens on experts in CPU memory are computed on a device.
//
// The engine's scheduler asks each device (`offload_op`), by a number that its backend reads once from the
// environment (GGML_OP_OFFLOAD_MIN_BATCH, 32 by default). So that every model can have a number of its own, the
// function is replaced by one that looks at what the thread is computing for, and else asks the engine's own.
#include "guard.h"
#include "shim.h"

#include "ggml-backend-impl.h"
#include "ggml-backend.h"

#include <array>
#include <atomic>
#include <mutex>

namespace {

using offloads = bool (*)(ggml_backend_dev_t, const ggml_tensor *);

// Devices are never removed. A row is written whole before `count` says that it is there.
struct replaced_device {
    ggml_backend_dev_t device;
    offloads           engines_own;
};

std::array<replaced_device, 64> replaced;
std::atomic<size_t>             count{ 0 };
std::mutex                      replacing;

// Of the context that this thread is computing with; 0 for the engine's own rule.
thread_local uint32_t from_tokens = 0;

offloads engines_own(ggml_backend_dev_t device) {
    for (size_t i = 0, all = count.load(std::memory_order_acquire); i < all; i++) {
        if (replaced[i].device == device) {
            return replaced[i].engines_own;
        }
    }
    return nullptr;
}

// A multiplication with experts, or the addition of their biases: its third dimension are the tokens. The rest, such as
// whole layers on the CPU, is left to the engine: all of its weights would be copied for each token.
bool offload_op(ggml_backend_dev_t device, const ggml_tensor * op) {
    if (from_tokens > 0 && (op->op == GGML_OP_MUL_MAT_ID || op->op == GGML_OP_ADD_ID)) {
        return op->ne[2] >= static_cast<int64_t>(from_tokens);
    }
    const offloads own = engines_own(device);
    return own != nullptr && own(device, op);
}

} // namespace

// By moe_init, before anybody has computed anything by this library. The pointer is the engine's and is read without a
// lock; a program that also uses the engine by other means must not compute at that very moment.
void moe::offload_by_tokens() {
    std::lock_guard<std::mutex> lock(replacing);
    for (size_t i = 0; i < ggml_backend_dev_count(); i++) {
        ggml_backend_dev_t device = ggml_backend_dev_get(i);
        const offloads own = device->iface.offload_op;
        const size_t row = count.load(std::memory_order_relaxed);
        if (own == nullptr || own == offload_op || row == replaced.size()) {
            continue;
        }
        replaced[row] = { device, own };
        count.store(row + 1, std::memory_order_release);
        device->iface.offload_op = offload_op;
    }
}

bool moe::takes_operations(ggml_backend_dev_t device) {
    return device->iface.offload_op == offload_op;
}

uint32_t moe_experts_offloaded_from(uint32_t tokens) {
    const uint32_t before = from_tokens;
    from_tokens = tokens;
    return before;
}
