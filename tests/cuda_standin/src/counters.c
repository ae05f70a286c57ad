/* How often each call of interest was made: read and set to 0 by counters.py. */
#include "device.h"

static const char *const NAMES[] = {
#define COUNTER(id, name) name,
#include "counters.def"
#undef COUNTER
};
static uint64_t counts[N_COUNTERS];

void standin_count(Counter which) { __atomic_add_fetch(&counts[which], 1, __ATOMIC_RELAXED); }

int standin_counters(void) { return N_COUNTERS; }
const char *standin_counter_name(int which) { return NAMES[which]; }
uint64_t standin_counter(int which) { return __atomic_load_n(&counts[which], __ATOMIC_RELAXED); }

void standin_reset_counters(void) {
    for (int i = 0; i < N_COUNTERS; i++) __atomic_store_n(&counts[i], 0, __ATOMIC_RELAXED);
}
