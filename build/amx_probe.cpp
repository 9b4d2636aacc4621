// A tile configuration as ggml makes one (ggml-cpu/amx/mmq.cpp): on the stack, filled value by value
// (in a loop, or before a call, the stores are not seen to be dead), and read by `_tile_loadconfig`.
// What is compiled must depend on the values FIRST and LAST, which the processor reads.
#include <immintrin.h>
#include <stdint.h>

#if defined(__AMX_TILE__) && defined(__AMX_INT8__)
struct tile_config {
    uint8_t  palette_id;
    uint8_t  start_row;
    uint8_t  reserved[14];
    uint16_t colsb[16];
    uint8_t  rows[16];
};

void moe_tiles() {
    static thread_local bool done = false;
    if (done) {
        return;
    }
    alignas(64) tile_config config = {};
    config.palette_id = 1;
    config.start_row  = 0;
    config.rows[0]    = 8;
    config.colsb[0]   = FIRST;
    config.rows[1]    = 8;
    config.colsb[1]   = 64;
    config.rows[2]    = 16;
    config.colsb[2]   = 32;
    config.rows[3]    = 16;
    config.colsb[3]   = 32;
    config.rows[4]    = 16;
    config.colsb[4]   = 64;
    config.rows[5]    = 16;
    config.colsb[5]   = 64;
    config.rows[6]    = 16;
    config.colsb[6]   = 64;
    config.rows[7]    = LAST;
    config.colsb[7]   = 64;
    _tile_loadconfig(&config);
    done = true;
}
#else
int moe_without_tiles;
#endif
