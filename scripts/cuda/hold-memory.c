// hold-memory BYTES: takes the memory of the first GPU but for so many bytes, says on one line how many are
// free then, and keeps it until its standard input ends.
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>

static void check(cudaError_t error, const char *what) {
    if (error != cudaSuccess) {
        fprintf(stderr, "hold-memory: %s: %s\n", what, cudaGetErrorString(error));
        exit(1);
    }
}

int main(int count, char **arguments) {
    size_t leave, free_bytes, total;
    void *held = NULL;
    if (count != 2 || sscanf(arguments[1], "%zu", &leave) != 1) {
        fprintf(stderr, "hold-memory: say how many bytes to leave\n");
        return 1;
    }
    check(cudaFree(NULL), "start CUDA"); // so that what CUDA itself takes is gone before
    check(cudaMemGetInfo(&free_bytes, &total), "ask for the free memory");
    if (free_bytes > leave) check(cudaMalloc(&held, free_bytes - leave), "take the rest");
    check(cudaMemGetInfo(&free_bytes, &total), "ask for the free memory");
    printf("%zu\n", free_bytes);
    fflush(stdout);
    while (getchar() != EOF) {}
    return 0;
}
