// Memory of our own that a device reads directly.
//
// A device's own pinned memory comes page by page (cudaMallocHost: 2 GB/s on an H100, with as many threads as one likes).
// Memory that is there already, in huge pages, is pinned at 36 GB/s. The engine can do that too
// (ggml_backend_register_host_buffer), but with CUDA only if the environment has GGML_CUDA_REGISTER_HOST, which a library
// cannot set while other threads may read it. So where it refuses, CUDA's driver is asked.
#include "guard.h"
#include "shim.h"

#include "ggml-backend.h"

#include <cstdlib>
#include <cstring>

#ifdef __linux__
#include <dlfcn.h>
#endif

namespace {

using register_host   = bool (*)(void *, size_t);
using unregister_host = void (*)(void *);

template <typename Function> Function engine_function(ggml_backend_dev_t device, const char * name) {
    ggml_backend_reg_t backend = ggml_backend_dev_backend_reg(device);
    return backend == nullptr ? nullptr : reinterpret_cast<Function>(ggml_backend_reg_get_proc_address(backend, name));
}

// cuMemHostRegister and cuMemHostUnregister, whose interface has not changed since CUDA 6.5.
struct cuda_driver {
    int (*pin)(void *, size_t, unsigned)  = nullptr;
    int (*unpin)(void *)                  = nullptr;
};

constexpr unsigned PORTABLE = 1; // for all devices

bool is_of(ggml_backend_dev_t device, const char * name) {
    ggml_backend_reg_t backend = ggml_backend_dev_backend_reg(device);
    return backend != nullptr && std::strcmp(ggml_backend_reg_name(backend), name) == 0;
}

// Of the driver that this process has loaded; without it, nothing.
cuda_driver driver_of(ggml_backend_dev_t device) {
    cuda_driver driver;
#ifdef __linux__
    void * library = is_of(device, "CUDA") ? dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD) : nullptr;
    if (library != nullptr) {
        driver.pin   = reinterpret_cast<decltype(driver.pin)>(dlsym(library, "cuMemHostRegister_v2"));
        driver.unpin = reinterpret_cast<decltype(driver.unpin)>(dlsym(library, "cuMemHostUnregister"));
        dlclose(library); // one user less; the backend keeps it
    }
#else
    (void) device;
#endif
    return driver;
}

// The driver works for the device that the thread has chosen, which every question to the engine's device does.
void choose(ggml_backend_dev_t device) {
    size_t free = 0, total = 0;
    ggml_backend_dev_memory(device, &free, &total);
}

} // namespace

moe_status moe_device_registers(ggml_backend_dev_t device, bool * registers, moe_message * message) {
    return guarded(message, [&] {
#ifdef __linux__
        const cuda_driver driver = driver_of(device);
        // The same code for other makers' devices refuses without this.
        const bool refuses = (is_of(device, "ROCm") || is_of(device, "MUSA")) && std::getenv("GGML_CUDA_REGISTER_HOST") == nullptr;
        const bool by_engine = engine_function<register_host>(device, "ggml_backend_register_host_buffer") != nullptr;
        *registers = is_of(device, "CUDA") ? driver.pin != nullptr && driver.unpin != nullptr : by_engine && !refuses;
#else
        (void) device;
        *registers = false; // there is no memory of our own
#endif
        return MOE_OK;
    });
}

moe_status moe_pin(ggml_backend_dev_t device, void * base, size_t bytes, bool * pinned, moe_message * message) {
    return guarded(message, [&] {
        choose(device);
        const auto own = engine_function<register_host>(device, "ggml_backend_register_host_buffer");
        *pinned = own != nullptr && own(base, bytes);
        const cuda_driver driver = driver_of(device);
        if (!*pinned && driver.pin != nullptr) {
            *pinned = driver.pin(base, bytes, PORTABLE) == 0;
        }
        return MOE_OK;
    });
}

// Whichever of the two pinned it: CUDA's runtime and driver have one account.
moe_status moe_unpin(ggml_backend_dev_t device, void * base, moe_message * message) {
    return guarded(message, [&] {
        choose(device);
        const cuda_driver driver = driver_of(device);
        if (driver.unpin != nullptr) {
            driver.unpin(base);
        } else if (const auto own = engine_function<unregister_host>(device, "ggml_backend_unregister_host_buffer")) {
            own(base);
        }
        return MOE_OK;
    });
}
