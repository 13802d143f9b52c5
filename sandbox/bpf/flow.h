/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * What every capsule sends and gets, flow by flow, and all in all.
 *
 * Flows are counted in *slots*, an array that plabd has mapped. There are two sets of slots, used in turns: while the
 * programs count in one, plabd reads and empties the other. `plab2_live` says where a flow's slot is, and when the
 * flow began; it forgets what was not used for long by itself, so that nobody has to empty it, and a flow that was
 * forgotten gets another slot. Whatever is sent, the memory is what was taken at the start.
 *
 * What finds no slot is counted as lost. So that one capsule does not take the slots of all, it may have as many as
 * are still free: a first one that floods gets half of them, a second a quarter, and one that sends little always
 * finds some.
 */
#ifndef PLAB_FLOW_H
#define PLAB_FLOW_H

#include "packet.h"
#include "state.h"

/* Slots of one set. `src/net/layout.rs` has it, too. */
#define SLOTS 32768
/* Flows that are known at a time. */
#define LIVE 65536
/* After so long without a packet it is another flow, in nanoseconds. */
#define IDLE 300000000000ull

/* `plab_flows::record`: RECORD_FIRST and RECORD_LAST. */
#define RECORD_VERSION 1
#define RECORD_FIRST 1
#define RECORD_LAST 2

/* A slot: 120 bytes that are a record as `plab_flows::record::RawFlow` has it, and 8 to fill two cache lines. */
struct flow {
	__u16 version;
	__u16 size;
	__u16 flags;
	__u8 protocol;
	__u8 family;
	__u16 local_port;
	__u16 remote_port;
	__u32 reserved;
	__u64 cgroup;
	__u64 start;
	__u64 since;
	__u64 last;
	__u64 packets_out;
	__u64 bytes_out;
	__u64 packets_in;
	__u64 bytes_in;
	__u64 refused;
	__u32 local[4];
	__u32 remote[4];
	__u64 unused;
};
#define RECORD_SIZE 120
_Static_assert(sizeof(struct flow) == 128 && __builtin_offsetof(struct flow, unused) == RECORD_SIZE, "RawFlow");

/* What is known of a flow beyond a turn. */
struct live {
	/* When it began; CLOCK_BOOTTIME. With the key that is the flow's identity. */
	__u64 start;
	/* When it got its last slot. */
	__u64 seen;
	/* `turn << 32 | slot`: see turn_of() and slot_of(). */
	__u64 place;
	/* CLOSED_* */
	__u64 closed;
};

/* TCP's end: both sides have said that they are done, or one has broken off. */
#define CLOSED_OUT 1
#define CLOSED_IN 2
#define CLOSED_ALL 3

/* Whose turn it is. plabd has this mapped. */
struct turns {
	/* Rises by one; its lowest bit says which set of slots the programs use. */
	__u32 turn;
	/* 0, always: see forget(). */
	__u32 nothing;
	/* By how much CLOCK_BOOTTIME is ahead of CLOCK_MONOTONIC, in nanoseconds: how long the machine has slept. */
	__u64 suspended;
	/* How much of what was lost plabd has told to its store. Only plabd's. */
	__u64 lost_told;
	__u64 unused1[5];
	/* The next slot of each set, a cache line each; may go beyond their number. */
	struct {
		__u64 next;
		__u64 unused[7];
	} sets[2];
};

/* What a capsule has sent and got since it was made. */
struct traffic {
	__u64 packets_out;
	__u64 bytes_out;
	__u64 packets_in;
	__u64 bytes_in;
};

SECTION("maps") struct bpf_map_def plab2_turns = {
	BPF_MAP_TYPE_ARRAY, sizeof(__u32), sizeof(struct turns), 1, BPF_F_MMAPABLE,
};
SECTION("maps") struct bpf_map_def plab2_flows = {
	BPF_MAP_TYPE_ARRAY, sizeof(__u32), sizeof(struct flow), 2 * SLOTS, BPF_F_MMAPABLE,
};
SECTION("maps") struct bpf_map_def plab2_live = {
	BPF_MAP_TYPE_LRU_HASH, sizeof(struct flow_key), sizeof(struct live), LIVE, 0,
};
/* Packets whose flow found no slot; each is one record, or a part of one, that is missing. */
SECTION("maps") struct bpf_map_def plab2_lost = {
	BPF_MAP_TYPE_PERCPU_ARRAY, sizeof(__u32), sizeof(__u64), 1, 0,
};
/* By `struct capsule`'s index. */
SECTION("maps") struct bpf_map_def plab2_traffic = {
	BPF_MAP_TYPE_PERCPU_ARRAY, sizeof(__u32), sizeof(struct traffic), CAPSULES, 0,
};

enum what { SENT, REFUSED, GOT };

INLINE __u32 turn_of(__u64 place)
{
	return place >> 32;
}

/* Within a set. */
INLINE __u32 slot_of(__u64 place)
{
	return (__u32)place & (SLOTS - 1);
}

/* A slot of this turn for a flow; none if there is none left for the capsule. */
INLINE struct flow *new_slot(struct capsule *capsule, struct turns *turns, __u32 turn, __u32 *slot)
{
	__u64 *next = &turns->sets[turn & 1].next;
	__u64 taken = *(volatile __u64 *)next;
	__u32 index;

	/* Two processors may forget a little of what the capsule has taken: nobody is hurt. */
	if (capsule->turn != turn) {
		capsule->turn = turn;
		capsule->taken = 0;
	}
	if (taken >= SLOTS || capsule->taken > SLOTS - taken)
		return 0;
	__sync_fetch_and_add(&capsule->taken, 1);
	taken = __sync_fetch_and_add(next, 1);
	if (taken >= SLOTS)
		return 0;
	index = (turn & 1) * SLOTS + (__u32)taken;
	*slot = (__u32)taken;
	return map_lookup(&plab2_flows, &index);
}

/* Writes what does not change into a slot. */
INLINE void describe(struct flow *flow, const struct flow_key *key, __u64 start, __u64 now, __u16 flags)
{
	flow->version = RECORD_VERSION;
	flow->size = RECORD_SIZE;
	flow->flags = flags;
	flow->protocol = key->protocol;
	flow->family = key->family;
	flow->local_port = key->local_port;
	flow->remote_port = key->remote_port;
	flow->cgroup = key->cgroup;
	flow->start = start;
	flow->since = now;
	flow->last = now;
	__builtin_memcpy(flow->local, key->local, sizeof(key->local));
	__builtin_memcpy(flow->remote, key->remote, sizeof(key->remote));
}

/* A slot of this turn for a flow that has none in it; `place` is where. */
INLINE struct flow *open_flow(struct capsule *capsule, const struct flow_key *key, struct live *live,
			      struct turns *turns, __u32 turn, int opens, __u64 *place)
{
	__u64 now = boot_ns();
	struct live begun = { .start = now, .seen = now };
	__u32 slot = 0;
	struct flow *flow = new_slot(capsule, turns, turn, &slot);

	if (!flow)
		return 0;
	begun.place = *place = (__u64)turn << 32 | slot;
	/* Ports are used again: by another connection, or after a long silence. */
	if (live && !(opens && live->closed) && now - live->seen < IDLE) {
		live->seen = now;
		live->place = begun.place;
		describe(flow, key, live->start, now, 0);
		return flow;
	}
	/* If another processor was faster there are two slots, of two flows that began at nearly the same time. */
	map_update(&plab2_live, key, &begun, BPF_ANY);
	describe(flow, key, now, now, RECORD_FIRST);
	return flow;
}

/* Notes that a side of a TCP connection has said that it is done; the flow's last record says so. */
INLINE void note_end(struct flow *flow, struct live *live, enum what what, __u8 tcp)
{
	__u64 closed = tcp & TCP_RST ? CLOSED_ALL : what == GOT ? CLOSED_IN : CLOSED_OUT;

	if (live)
		closed = live->closed |= closed;
	if (closed == CLOSED_ALL)
		flow->flags |= RECORD_LAST;
}

INLINE struct turns *all_turns(void)
{
	__u32 zero = 0;

	return map_lookup(&plab2_turns, &zero);
}

/* Adds packets to a slot. */
INLINE void add_to_flow(struct flow *flow, const struct turns *turns, enum what what, __u64 packets, __u64 bytes)
{
	/* As fine as the kernel's tick, and nearly for nothing; plabd's store has milliseconds. */
	__u64 now = coarse_ns() + turns->suspended;

	if (now > flow->last)
		flow->last = now;
	switch (what) {
	case REFUSED:
		__sync_fetch_and_add(&flow->refused, 1);
		break;
	case SENT:
		__sync_fetch_and_add(&flow->packets_out, packets);
		__sync_fetch_and_add(&flow->bytes_out, bytes);
		break;
	case GOT:
		__sync_fetch_and_add(&flow->packets_in, packets);
		__sync_fetch_and_add(&flow->bytes_in, bytes);
	}
}

/* Counts packets of a flow. `tcp` are TCP's flags. Where it counted them, and `place`; nothing if there is no slot left. */
INLINE struct flow *count_flow(struct capsule *capsule, const struct flow_key *key, enum what what, __u64 packets,
			       __u64 bytes, __u8 tcp, __u64 *place)
{
	struct turns *turns = all_turns();
	struct live *live = map_lookup(&plab2_live, key);
	int opens = (tcp & (TCP_SYN | TCP_ACK)) == TCP_SYN;
	struct flow *flow = 0;
	__u32 turn, index, zero = 0;

	if (!turns)
		return 0;
	turn = *(volatile __u32 *)&turns->turn;
	if (live && !(opens && live->closed)) {
		*place = *(volatile __u64 *)&live->place;
		index = (turn & 1) * SLOTS + slot_of(*place);
		if (turn_of(*place) == turn)
			flow = map_lookup(&plab2_flows, &index);
	}
	if (!flow)
		flow = open_flow(capsule, key, live, turns, turn, opens, place);
	if (!flow) {
		__u64 *lost = map_lookup(&plab2_lost, &zero);

		if (lost)
			__sync_fetch_and_add(lost, 1);
		return 0;
	}
	add_to_flow(flow, turns, what, packets, bytes);
	if (what != REFUSED && (tcp & (TCP_FIN | TCP_RST)))
		note_end(flow, live, what, tcp);
	return flow;
}

/* Counts what a capsule has sent or got. Each processor has a copy; a program may be interrupted by another, though. */
INLINE void count_traffic(__u32 index, enum what what, __u64 packets, __u64 bytes)
{
	struct traffic *traffic = map_lookup(&plab2_traffic, &index);

	if (!traffic)
		return;
	if (what == SENT) {
		__sync_fetch_and_add(&traffic->packets_out, packets);
		__sync_fetch_and_add(&traffic->bytes_out, bytes);
	} else {
		__sync_fetch_and_add(&traffic->packets_in, packets);
		__sync_fetch_and_add(&traffic->bytes_in, bytes);
	}
}

#endif
