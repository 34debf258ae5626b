/* The shared mapping between a target and the engine: board, slots, lanes.
 *
 * The board is one preallocated file of a session on tmpfs, mapped whole by
 * every process of it: a header page (identity, clock, what to hook, losses),
 * a page of hashes of what has been recorded in full (environments, paths of
 * executables and devices), a page of redaction words, then slots.  A slot
 * is a thread's small inline lane (and, for a process's first thread, the
 * gauges of its descriptors): a forked child takes one with two atomic
 * instructions and no system call.  A thread that outgrows its slot makes a
 * ring file of its own, which is the same struct lane with more room.
 *
 * A lane has one producer, its thread, and one consumer, whoever holds the
 * session's lease.  Offsets count bytes of the stream and never wrap; a record
 * starts at a multiple of 8 and never crosses the end of the data:
 *
 *     u64 header = position tag (32 bits: offset / 8 + 1) | length << 32 | state << 56
 *     length bytes: tag of LaneRun.changes, length, Change
 *
 * The producer moves `reserve` first (one instruction, so a signal handler
 * may nest), stamps, fills in, and stores the header as FINISHED last.  The
 * consumer reads from `tail` while headers are finished.  A record whose
 * writer was lost (siglongjmp, cancellation) stays UNFINISHED and is voided by
 * the consumer; the position tag tells a header from the bytes that were there
 * a round earlier.
 *
 * No lock, no pointer, no descriptor: everything here survives kill -9. */
#ifndef SNAPTRAIL_REPORT_RING_H
#define SNAPTRAIL_REPORT_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BOARD_MAGIC 0x31445242504e5331ull /* "1SNPBRD1" */
#define BOARD_VERSION 3u
#define BOARD_SLOTS 120u
#define SLOT_BYTES 12288u
#define SLOTS_NEAR 4u /* within the first 64 KiB, which one page fault maps */
#define SLOT_DATA_OFFSET 4096u
#define SLOT_DATA_BYTES 8192u /* half of it holds a first record with a whole environment */
#define SLOT_GAUGES 128u
#define BOARD_SLOTS_OFFSET 16384u
#define BOARD_BYTES (BOARD_SLOTS_OFFSET + BOARD_SLOTS * SLOT_BYTES)

#define LANE_MAGIC 0x314e414c504e5331ull
#define LANE_HEADER_BYTES 4096u /* of a ring file: lane at 0, data behind */

enum hook_group {
	GROUP_PROCESS = 1, GROUP_THREAD = 2, GROUP_STATUS = 4, GROUP_MEMORY = 8, GROUP_RESOURCE = 16,
	GROUP_COMMUNICATION = 32, GROUP_ALL = 63,
	GROUP_EXPLICIT = 64, /* what the program says itself: always on */
	GROUP_HEAP = 128,    /* gauges of the heap, from an object of their own */
};

enum lane_state {
	LANE_FREE = 0,
	LANE_CLAIMED = 1, /* being set up: pid is valid, nothing else */
	LANE_LIVE = 2,
	LANE_CLOSED = 3,  /* the producer moved on or ended; to be drained and freed */
};

enum record_state { RECORD_UNFINISHED = 1, RECORD_FINISHED = 2, RECORD_VOID = 3 };

struct lane {
	/* the producer's line */
	uint64_t reserve;
	uint64_t limit;           /* how far it may go before it looks at tail again */
	uint64_t hold;            /* a stamp that will be reported later; 0: none */
	uint64_t lost;            /* reports dropped for want of room */
	uint64_t lost_first, lost_last; /* stamps of the first and last of them since lost was 0 */
	uint64_t ahead;           /* since when a call runs that was reported before it began; 0: none */
	uint64_t pad0;
	/* the consumer's line */
	uint64_t tail;
	uint64_t lost_told;       /* so many of `lost` stand in a stage */
	uint64_t pad1[6];
	/* identity, written once before LANE_LIVE */
	uint64_t magic;
	uint32_t state;
	uint32_t pid;             /* in the producer's own namespace */
	uint32_t tid;
	uint32_t size_bytes;      /* of the data, a power of two */
	uint32_t data_offset;     /* of the data from the lane's start */
	uint32_t serial;          /* of the ring file, 0 for a slot */
	uint64_t claimed_stamp;
	uint64_t image;           /* the same for all lanes of one program image of one process */
	uint64_t pid_ns;          /* the namespace of pid and tid: 0 the board's, UINT64_MAX unknown, else its inode */
	uint32_t outer_pid;       /* with pid_ns, and written by the consumer: pid as the board's namespace has it */
	uint32_t pad2;
};
_Static_assert(sizeof(struct lane) == 192, "three lines");

struct gauge {
	uint64_t bytes_read, bytes_written, calls;
};

/* Behind the lane in a process's first slot. */
struct slot_gauges {
	uint32_t used;            /* nonzero: this slot holds the gauges of `pid` */
	uint32_t more_serial;     /* file g.<pid>.<serial> with gauges of higher descriptors; 0 none */
	uint64_t pad;
	struct gauge fd[SLOT_GAUGES];
};
#define SLOT_GAUGES_OFFSET 256u
#define MORE_GAUGES 4096u
_Static_assert(SLOT_GAUGES_OFFSET + sizeof(struct slot_gauges) <= SLOT_DATA_OFFSET, "a slot's first page");

/* The heap's gauges, at the end of the first page of every slot and ring file.
 * A block may be freed by another thread than took it: `live` of a thread may
 * be below zero, and the process's is the sum over its lanes and `process`. */
struct heap_count {
	int64_t live;             /* bytes, as malloc_usable_size() says */
	uint64_t allocations, frees;
};
struct lane_heap {
	struct heap_count own;    /* of the lane's thread, by plain adds */
	uint32_t tid;             /* that thread, 0 none */
	uint32_t pad0[9];
	/* In a process's first slot: what threads without a lane and ended ones
	 * counted, and what a fork brought along; by locked adds. */
	struct heap_count process;
	uint32_t moves_begun;     /* counts that go from one place to another: while */
	uint32_t moves_done;      /* these two differ they may be in both */
	uint32_t unsized;         /* the allocator does not say how big a block is: `live` means nothing */
	uint32_t pad1[7];
};
#define LANE_HEAP_OFFSET 3840u
_Static_assert(sizeof(struct lane_heap) == 128, "two lines");
_Static_assert(LANE_HEAP_OFFSET + sizeof(struct lane_heap) <= LANE_HEADER_BYTES, "a ring file's first page");
_Static_assert(SLOT_GAUGES_OFFSET + sizeof(struct slot_gauges) <= LANE_HEAP_OFFSET, "behind a slot's gauges");

#define BOARD_KNOWN 512u
#define BOARD_WORDS_BYTES 4096u

/* Why a report of a group with stacks has none. */
enum stack_miss {
	STACK_IN_HANDLER, /* within a signal handler */
	STACK_ELSEWHERE,  /* not on the thread's own stack: an alternate one, a coroutine's */
	STACK_NO_ROOM,    /* hardly any of the thread's stack is left */
	STACK_UNREADY,    /* another thread was learning a new frame, or no system call may be made for that */
	STACK_MISSES,
};

struct board {
	uint64_t magic;
	uint32_t version;
	uint32_t size_bytes;
	char session_id[24];
	char boot_id[40];
	uint64_t created_mono_ns;
	int64_t session_offset_ns;  /* session time = CLOCK_MONOTONIC + this */
	uint32_t use_tsc;
	uint32_t groups;            /* enum hook_group, a set */
	uint32_t lane_bytes;        /* of a first ring file */
	uint32_t lane_max_bytes;
	uint32_t redact;
	uint32_t slots;
	uint32_t recorder_pid;
	uint32_t root_pid;
	/* doorbell */
	uint32_t sleeping;          /* the consumer waits on `bell` */
	uint32_t bell;              /* futex word */
	uint32_t ring_serial;       /* given to the last ring file that was begun */
	uint32_t rings_ready;       /* ring files renamed into place: look again when it moves */
	uint32_t closing;           /* the session is over: new processes stay out */
	uint64_t no_lane;           /* reports lost because no lane could be had */
	uint64_t no_lane_first, no_lane_last;
	char error[256];            /* the first error of any process */
	uint64_t calibration[3];    /* tick, session ns, rate: the line in force, for readers */
	/* the stage, for readers of a live session */
	uint64_t stage_serial;      /* bumped by the recorder before stage files go away */
	uint64_t cut_ns;            /* the last snapshot describes this instant */
	uint64_t watermark_ns;      /* all that is stamped before is in the stage or stored */
	uint64_t max_rate;          /* changes a second and key that are kept; 0 all */
	uint32_t plain;             /* without a supervisor: a process of the session hosts the engine */
	uint32_t namespaces;        /* some process of it went into another pid or user namespace */
	uint64_t pid_ns;            /* inode of the pid namespace that the session began in */
	uint64_t pipe_dev, socket_dev; /* where the kernel has its pipes and sockets: stx_dev, major << 32 | minor */
	uint32_t stack_groups;      /* enum hook_group, those whose Changes carry a call stack */
	uint32_t stack_depth;       /* frames */
	uint64_t stacks_missed[STACK_MISSES]; /* reports without one, by enum stack_miss */
	uint64_t no_lane_told;      /* so many of `no_lane` stand in a stage */
};
#define BOARD_KNOWN_OFFSET 4096u
#define BOARD_WORDS_OFFSET 8192u
_Static_assert(sizeof(struct board) <= BOARD_KNOWN_OFFSET, "the header page");

static inline uint64_t *board_known(struct board *b) { return (uint64_t *)((char *)b + BOARD_KNOWN_OFFSET); }
static inline char *board_words(struct board *b) { return (char *)b + BOARD_WORDS_OFFSET; }
static inline struct lane *board_slot(struct board *b, uint32_t i)
{
	return (struct lane *)((char *)b + BOARD_SLOTS_OFFSET + (size_t)i * SLOT_BYTES);
}
static inline uint8_t *lane_data(struct lane *l) { return (uint8_t *)l + l->data_offset; }
static inline struct slot_gauges *slot_gauges(struct lane *slot)
{
	return (struct slot_gauges *)((char *)slot + SLOT_GAUGES_OFFSET);
}

static inline struct lane_heap *lane_heap(struct lane *l) { return (struct lane_heap *)((char *)l + LANE_HEAP_OFFSET); }

static inline uint64_t record_header(uint64_t pos, uint32_t len, uint32_t state)
{
	return (uint32_t)(pos / 8 + 1) | (uint64_t)len << 32 | (uint64_t)state << 56;
}
static inline bool record_is_at(uint64_t header, uint64_t pos) { return (uint32_t)header == (uint32_t)(pos / 8 + 1); }
static inline uint32_t record_len(uint64_t header) { return (uint32_t)(header >> 32) & 0xffffff; }
static inline uint32_t record_state(uint64_t header) { return (uint32_t)(header >> 56); }
static inline uint32_t record_extent(uint32_t len) { return 8 + ((len + 7) & ~7u); }

#endif
