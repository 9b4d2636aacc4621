// The tests' own device (vendor/shim/planted_device.cpp) as a library of a backend, so that every program finds a
// GPU: see scripts/with-a-gpu. Who hides GPUs hides it too.
#include "planted_device.cpp"

#include <cstdlib>

// Who loads the library does it.
void moe::offload_by_tokens() {}

static size_t count_unless_hidden(ggml_backend_reg_t) {
    const char * visible = std::getenv("CUDA_VISIBLE_DEVICES");
    return visible != nullptr && *visible == '\0' ? 0 : 1;
}

extern "C" __attribute__((visibility("default"))) ggml_backend_reg_t ggml_backend_init() {
    planted.total_bytes          = 6ull << 30;
    planted.row_padding_elements = 512;      // as CUDA pads
    planted.hidden_bytes         = 64 << 20; // as the first graph takes there
    planted.offloads             = true;
    name                         = "STANDIN0"; // tests have a planted device of their own
    fill_tables();
    registry.iface.get_device_count = count_unless_hidden;
    return &registry;
}
