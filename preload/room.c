/* The visitor's big arrays.  This file is linked last: what every process
 * touches, its tables and state, then shares one page with the data. */
#include "visitor.h"

uint64_t room_verdicts[64];
uint8_t scratch[SCRATCH_BYTES];
uint8_t room_lists[LISTS_BYTES];
uint8_t room_wiped[8192];
