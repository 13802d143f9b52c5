/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * What was found out about a socket's last packet, for the next one that is like it: most are.
 *
 * A packet is like it if it is of the same flow and opens and ends no connection; where it leaves, also if it leaves by
 * the same interface. Then it may do the same, unless something has changed that was looked at: plabd counts its
 * changes. What has to be looked at anew for each packet is never kept: who receives what stays on this machine, and
 * anything of a capsule that was born with CAP_NET_RAW.
 *
 * It is kept with the socket, whose cgroup never changes, and goes with it.
 */
#ifndef PLAB_KNOWN_H
#define PLAB_KNOWN_H

#include "flow.h"
#include "packet.h"
#include "state.h"

/* Packets of a flow in one turn from which on it is kept: what is short is not worth the memory. */
#define WORTH 16

struct known {
	/* Odd while it is written, another number after. */
	__u32 version;
	/* The interface by which packets may leave; 0 if each is to be looked at. */
	__u32 ifindex;
	/* The count of changes before anything was looked at. */
	__u64 changes;
	/* As `struct live` has it. */
	__u64 place;
	/* Without a cgroup. */
	struct flow_key key;
	/* As `struct capsule` has them. */
	__u32 classid;
	__u32 index;
};
_Static_assert(sizeof(struct known) % 8 == 0, "src/net/btf.rs");

/* How often plabd has changed what these programs look at. It counts after a change, so what was found before is over. */
SECTION("maps") struct bpf_map_def plab2_changes = {
	BPF_MAP_TYPE_ARRAY, sizeof(__u32), sizeof(__u64), 1, BPF_F_MMAPABLE,
};

/* By socket. */
SECTION("maps") struct bpf_map_def plab2_known = {
	BPF_MAP_TYPE_SK_STORAGE, sizeof(__u32), sizeof(struct known), 0, BPF_F_NO_PREALLOC,
};

/* The compiler leaves the order of loads and stores as it is, and so does the machine. */
#define IN_ORDER() asm volatile("" ::: "memory")

/* To be read before anything that may change. */
INLINE __u64 changes_now(void)
{
	__u32 zero = 0;
	__u64 *changes = map_lookup(&plab2_changes, &zero);
	__u64 now = changes ? *(volatile __u64 *)changes : 0;

	IN_ORDER();
	return now;
}

INLINE int same_flow(const struct flow_key *one, const struct flow_key *other)
{
	const __u64 *a = (const void *)one, *b = (const void *)other;
	__u64 differ = 0;

#pragma unroll
	for (int i = 1; i < (int)(sizeof(*one) / sizeof(*a)); i++)
		differ |= a[i] ^ b[i];
	return !differ;
}

/* Whether a packet may be like the last one. */
INLINE int is_ordinary(const struct packet *packet)
{
	return packet->plain && !(packet->tcp & (TCP_SYN | TCP_FIN | TCP_RST)) && packet->key.protocol != PROTO_ICMP &&
	       packet->key.protocol != PROTO_ICMPV6;
}

/*
 * For the kernel's verifier, which follows each way that a packet's reading can take through all that comes after, unless it
 * cannot tell them apart: it is a quarter of the work if what was read is nothing it knows. Every start of plabd waits for it.
 */
INLINE void forget(struct packet *packet)
{
	struct turns *turns = all_turns();
	__u32 nothing = turns ? *(volatile __u32 *)&turns->nothing : 0;

	packet->key.family |= nothing;
	packet->key.protocol |= nothing;
	packet->plain |= nothing;
	packet->tcp |= nothing;
}

/* What is kept with the packet's socket. */
INLINE struct known *known_of(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	return sk ? sk_storage_get(&plab2_known, sk, 0, 0) : 0;
}

/*
 * Counts a packet that is like the last one as that was; 0 if it is not, and then nothing has been done. What leaves has
 * an `ifindex`.
 */
INLINE int as_before(struct __sk_buff *skb, const struct packet *packet, __u64 changes, enum what what, __u64 packets)
{
	struct known *known = known_of(skb);
	struct turns *turns = all_turns();
	__u32 version, ifindex, classid, counted, index;
	struct flow *flow;
	__u64 place;
	int same;

	if (!known || !turns || !is_ordinary(packet))
		return 0;
	version = *(volatile __u32 *)&known->version;
	IN_ORDER();
	same = known->changes == changes && same_flow(&known->key, &packet->key);
	ifindex = known->ifindex;
	place = known->place;
	classid = known->classid;
	counted = known->index;
	IN_ORDER();
	if (!same || (version & 1) || *(volatile __u32 *)&known->version != version)
		return 0;
	if (turn_of(place) != *(volatile __u32 *)&turns->turn || (what == SENT && ifindex != skb->ifindex))
		return 0;
	index = (turn_of(place) & 1) * SLOTS + slot_of(place);
	flow = map_lookup(&plab2_flows, &index);
	if (!flow)
		return 0;
	if (what == SENT && classid)
		skb->priority = classid;
	count_traffic(counted, what, packets, skb->len);
	add_to_flow(flow, turns, what, packets, skb->len);
	return 1;
}

/* Keeps what was found about a packet that may pass; `ifindex` 0 if not whether others like it may leave. */
INLINE void keep(struct __sk_buff *skb, const struct packet *packet, const struct capsule *capsule, __u64 changes,
		 const struct flow *flow, __u64 place, __u32 ifindex)
{
	struct bpf_sock *sk = skb->sk;
	struct known *known;
	__u32 version;

	if (!is_ordinary(packet) || (capsule->flags & CAPSULE_NET_RAW) || flow->packets_out + flow->packets_in < WORTH)
		return;
	if (sk)
		sk = sk_fullsock(sk);
	if (!sk || sk->type == SOCK_RAW)
		return;
	known = sk_storage_get(&plab2_known, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!known)
		return;
	version = *(volatile __u32 *)&known->version;
	/* Another program writes it. */
	if ((version & 1) || __sync_val_compare_and_swap(&known->version, version, version + 1) != version)
		return;
	/* What comes in says nothing of what goes out, and takes nothing back. */
	if (!ifindex && known->changes == changes && same_flow(&known->key, &packet->key))
		ifindex = known->ifindex;
	known->ifindex = ifindex;
	known->changes = changes;
	known->place = place;
	known->key = packet->key;
	known->key.cgroup = 0;
	known->classid = capsule->classid;
	known->index = capsule->index;
	IN_ORDER();
	*(volatile __u32 *)&known->version = version + 2;
}

#endif
