/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * Echo requests of capsules whose definition has `raw`, and whose their answers are.
 *
 * An echo's ID is to ICMP what a port is to UDP, so it is property as well: of the slice that used it first, until it
 * has not used it for a minute. Sockets of the kernel's own ping have IDs out of the same array.
 */
#ifndef PLAB_ECHO_H
#define PLAB_ECHO_H

#include "packet.h"
#include "state.h"

/* How long an ID stays its last user's, and how old an echo may be whose answer is still let in; in seconds. */
#define ECHO_SECONDS 60
/* How many IDs a slice may use in a minute: all raw slices share 65,536 for each version of IP. */
#define ECHO_TAKES 1024

#define NANOSECONDS 1000000000ULL

/* Whose an echo ID is and when it was last used: `UID << 32 | seconds since boot`. The index is `v6 << 16 | ID`. */
SECTION("maps") struct bpf_map_def plab2_echo_ids = {
	BPF_MAP_TYPE_ARRAY, sizeof(__u32), sizeof(__u64), 2 << 16, 0,
};

/* How many IDs a slice has taken in this minute: `minutes since boot << 32 | count`. */
SECTION("maps") struct bpf_map_def plab2_echo_take = {
	BPF_MAP_TYPE_HASH, sizeof(__u32), sizeof(__u64), 32768, BPF_F_NO_PREALLOC,
};

/* One echo request. A v4 address is in v6 clothes. */
struct echo {
	__u32 remote[4];
	__u32 uid;
	__be16 id;
	__be16 sequence;
};

/* When it was sent, in seconds since boot. A flood forgets the oldest: their answers are not heard. */
SECTION("maps") struct bpf_map_def plab2_echo_sent = {
	BPF_MAP_TYPE_LRU_HASH, sizeof(struct echo), sizeof(__u32), 65536, 0,
};

INLINE __u32 seconds_since_boot(void)
{
	return boot_ns() / NANOSECONDS;
}

/* Whether the slice may take one ID more in this minute. */
INLINE int may_take(__u32 uid, __u32 now)
{
	__u64 minute = (__u64)(now / 60) << 32;
	__u64 none = 0;
	__u64 *taken = map_lookup(&plab2_echo_take, &uid);
	__u64 old, next;

	if (!taken) {
		map_update(&plab2_echo_take, &uid, &none, BPF_NOEXIST);
		taken = map_lookup(&plab2_echo_take, &uid);
		if (!taken)
			return 0;
	}
	/* Again if another CPU was faster. */
#pragma unroll
	for (int i = 0; i < 4; i++) {
		old = *(volatile __u64 *)taken;
		if (old >> 32 != minute >> 32)
			next = minute | 1;
		else if ((__u32)old >= ECHO_TAKES)
			return 0;
		else
			next = old + 1;
		if (__sync_val_compare_and_swap(taken, old, next) == old)
			return 1;
	}
	return 0;
}

INLINE __u64 *echo_id(int v6, __be16 id)
{
	__u32 index = (v6 ? 1 << 16 : 0) | (__u32)ntohs(id);

	return map_lookup(&plab2_echo_ids, &index);
}

/* Whether a time is within the last minute. Another CPU may have noted one that is later than `now`. */
INLINE int is_recent(__u32 then, __u32 now)
{
	return (__s32)(now - then) < ECHO_SECONDS;
}

/* Makes the ID the slice's, unless it is another's. */
INLINE int take_id(int v6, __be16 id, __u32 uid, __u32 now)
{
	__u64 mine = (__u64)uid << 32 | now;
	__u64 *owner = echo_id(v6, id);
	__u64 old;

	if (!owner)
		return 0;
	old = *(volatile __u64 *)owner;
	if (old == mine)
		return 1;
	if (old >> 32 != uid && old && is_recent((__u32)old, now))
		return 0;
	/* Keeping one over a minute counts as taking it, or a slice would gather all of them. */
	if ((old >> 32 != uid || (__u32)old / 60 != now / 60) && !may_take(uid, now))
		return 0;
	if (__sync_val_compare_and_swap(owner, old, mine) == old)
		return 1;
	/* Another CPU was faster; whether for this slice, it says itself. */
	return *(volatile __u64 *)owner >> 32 == uid;
}

/* `from` are ID and sequence number, as they follow each other in a packet. */
INLINE void read_echo(struct echo *echo, struct capsule *capsule, int v6, const __u32 *remote, const void *from)
{
	clothe(echo->remote, v6, remote);
	echo->uid = capsule->uid;
	__builtin_memcpy(&echo->id, from, 2);
	__builtin_memcpy(&echo->sequence, from + 2, 2);
}

/*
 * What is sent by ICMP: an echo request with an ID that is the slice's, and nothing else. Errors, redirects and router
 * advertisements would be believed by others.
 */
INLINE int may_ping(struct __sk_buff *skb, struct capsule *capsule, const struct flow_key *key)
{
	int v6 = key->family == 6;
	struct echo echo;
	__u32 now = seconds_since_boot();
	/* Type, code, checksum, ID, sequence number. */
	__u8 header[8];

	if (key->protocol != (v6 ? PROTO_ICMPV6 : PROTO_ICMP))
		return 0;
	if (skb_load_bytes(skb, v6 ? 40 : 20, header, sizeof(header)))
		return 0;
	if (header[0] != (v6 ? 128 : 8) || header[1] != 0)
		return 0;
	read_echo(&echo, capsule, v6, key->remote, &header[4]);
	if (!take_id(v6, echo.id, capsule->uid, now))
		return 0;
	return !map_update(&plab2_echo_sent, &echo, &now, BPF_ANY);
}

/* Whether an echo of this ID and sequence number to this address was the slice's. */
INLINE int has_sent(const struct echo *echo, int v6)
{
	__u64 *owner = echo_id(v6, echo->id);
	__u32 *sent;

	if (!owner || *owner >> 32 != echo->uid)
		return 0;
	sent = map_lookup(&plab2_echo_sent, echo);
	return sent && is_recent(*sent, seconds_since_boot());
}

#endif
