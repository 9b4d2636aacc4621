// Threads that stay between graphs.
#include "guard.h"
#include "shim.h"

#include "ggml-backend.h"

#include <stdexcept>

namespace {

// By name, as the CPU's backend may have been loaded at run time.
template <typename Function> Function * of_cpu(const char * name) {
    ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    void * found = cpu == nullptr ? nullptr : ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(cpu), name);
    if (found == nullptr) {
        throw std::runtime_error(std::string("the CPU's backend has no ") + name);
    }
    return reinterpret_cast<Function *>(found);
}

} // namespace

moe_status moe_threads_attach(llama_context * context, uint32_t threads, ggml_threadpool_t * pool, moe_message * message) {
    return guarded(message, [&] {
        using New = ggml_threadpool_t(ggml_threadpool_params *);
        ggml_threadpool_params params = ggml_threadpool_params_default(int(threads));
        params.poll = 1; // the engine's default would turn for seconds, on a core that others could use
        *pool = of_cpu<New>("ggml_threadpool_new")(&params);
        if (*pool == nullptr) {
            return fail(message, "no threads");
        }
        llama_attach_threadpool(context, *pool, *pool);
        return MOE_OK;
    });
}

moe_status moe_threads_free(ggml_threadpool_t pool, moe_message * message) {
    return guarded(message, [&] {
        of_cpu<void(ggml_threadpool_t)>("ggml_threadpool_free")(pool);
        return MOE_OK;
    });
}
