/* Put before every file by `configure --enable-coverage`: a recorder ends by _exit(),
 * and what it ran counts as well. */
#include <unistd.h>

void __gcov_dump(void);
#define _exit(status) (__gcov_dump(), (_exit)(status))
