// Stands in for the NVIDIA driver while libggml-cuda.so is linked on a machine that has none. It has the
// functions that the engine calls by itself; it is never loaded, as libcuda.so.1 of the GPU machine is.
#define STUB(name) int name(void) { return 999; } /* CUDA_ERROR_UNKNOWN */
STUB(cuDeviceGet)
STUB(cuDeviceGetAttribute)
STUB(cuGetErrorString)
STUB(cuMemAddressFree)
STUB(cuMemAddressReserve)
STUB(cuMemCreate)
STUB(cuMemGetAllocationGranularity)
STUB(cuMemMap)
STUB(cuMemRelease)
STUB(cuMemSetAccess)
STUB(cuMemUnmap)
