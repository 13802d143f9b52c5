/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * What plabd tells the programs, and they tell plabd: the maps.
 *
 * `src/net/layout.rs` has the same structures. A change of any of them, or of what a value means, takes a new number in
 * every map's name: a plabd that finds maps of another number fills its own before it replaces the programs.
 */
#ifndef PLAB_STATE_H
#define PLAB_STATE_H

#include "helpers.h"

/* The node: one. */
struct node {
	/* Where the kernel takes a port from that nobody has asked for (ip_local_port_range). */
	__u16 ephemeral_first;
	__u16 ephemeral_last;
	/* How many prefixes are in each opt-out list: most nodes have none, and pay for none. */
	__u32 opt_outs4;
	__u32 opt_outs6;
};

/* One capsule, by the ID of its cgroup. One that is not here may do nothing. */
struct capsule {
	__u32 uid;
	/* What its packets are put into by the node's shaping: `major:minor` of a class; 0 for none. */
	__u32 classid;
	/* CAPSULE_* */
	__u32 flags;
	/* Where its traffic is counted. */
	__u32 index;
	/* The turn in which it took its last slot for a flow, and how many it has taken in that; the programs' own. */
	__u32 turn;
	__u32 taken;
};

/* As many as there can be. `src/net/layout.rs` has it, too. */
#define CAPSULES 8192

/* It has ports of SCTP, so it may have sockets of SCTP. */
#define CAPSULE_SCTP 1
/* It may have raw sockets of ICMP, of ICMP for IPv6, of UDP, of TCP. */
#define CAPSULE_RAW_ICMP 2
#define CAPSULE_RAW_ICMP6 4
#define CAPSULE_RAW_UDP 16
#define CAPSULE_RAW_TCP 32
/* It was born with CAP_NET_RAW, and has it until it ends, also when its slice may have raw sockets no more. */
#define CAPSULE_NET_RAW 8
/* It may send IPv4 with a header of its own. */
#define CAPSULE_OWN_HEADER (CAPSULE_RAW_ICMP | CAPSULE_RAW_UDP | CAPSULE_RAW_TCP)

/* What one slice was refused, by its UID; for as long as it has a capsule. */
struct refusals {
	__u64 opt_out;
	__u64 port;
	__u64 local;
	__u64 other;
};

/* Whose a port is: nobody's, so anybody's for a while; a slice's, by its UID; or the node's. */
#define OWNER_NOBODY 0
#define OWNER_NODE 0xffffffff
/* The node's, and capsules may reach it at the node's own addresses. */
#define OWNER_NODE_OPEN 0xfffffffe

/* Ports by protocol: the index is `class << 16 | port`. Owners stand 8 bytes apart in the kernel's array anyway. */
enum class { CLASS_TCP, CLASS_UDP, CLASS_SCTP, CLASS_UDPLITE, CLASSES };

struct prefix4 {
	__u32 length;
	__u32 address;
};

struct prefix6 {
	__u32 length;
	__u32 address[4];
};

SECTION("maps") struct bpf_map_def plab2_node = {
	BPF_MAP_TYPE_ARRAY, sizeof(__u32), sizeof(struct node), 1, 0,
};
SECTION("maps") struct bpf_map_def plab2_capsules = {
	BPF_MAP_TYPE_HASH, sizeof(__u64), sizeof(struct capsule), CAPSULES, BPF_F_NO_PREALLOC,
};
SECTION("maps") struct bpf_map_def plab2_refusals = {
	BPF_MAP_TYPE_HASH, sizeof(__u32), sizeof(struct refusals), CAPSULES, BPF_F_NO_PREALLOC,
};
SECTION("maps") struct bpf_map_def plab2_owners = {
	BPF_MAP_TYPE_ARRAY, sizeof(__u32), sizeof(__u64), CLASSES << 16, BPF_F_MMAPABLE,
};
SECTION("maps") struct bpf_map_def plab2_opt_out4 = {
	BPF_MAP_TYPE_LPM_TRIE, sizeof(struct prefix4), sizeof(__u32), 65536, BPF_F_NO_PREALLOC,
};
SECTION("maps") struct bpf_map_def plab2_opt_out6 = {
	BPF_MAP_TYPE_LPM_TRIE, sizeof(struct prefix6), sizeof(__u32), 65536, BPF_F_NO_PREALLOC,
};

INLINE struct node *this_node(void)
{
	__u32 zero = 0;

	return map_lookup(&plab2_node, &zero);
}

INLINE int is_ephemeral(const struct node *node, __u16 port)
{
	return port >= node->ephemeral_first && port <= node->ephemeral_last;
}

INLINE struct capsule *capsule_of(__u64 cgroup)
{
	return map_lookup(&plab2_capsules, &cgroup);
}

INLINE __u32 owner_of(enum class class, __u16 port)
{
	__u32 index = (__u32)class << 16 | port;
	__u64 *owner = map_lookup(&plab2_owners, &index);

	/* The array has every index; what could not be looked up is not free to take. */
	return owner ? (__u32)*owner : OWNER_NODE;
}

/* Counts one refusal of `what` for the capsule's slice. */
#define COUNT_REFUSAL(capsule, what)                                               \
	do {                                                                       \
		__u32 uid = (capsule)->uid;                                        \
		struct refusals *refusals = map_lookup(&plab2_refusals, &uid);     \
		if (refusals)                                                      \
			__sync_fetch_and_add(&refusals->what, 1);                  \
	} while (0)

/* Whether capsules must not send there. Addresses are as in a packet. */
INLINE int opted_out4(struct node *node, __u32 address)
{
	struct prefix4 key = { .length = 32, .address = address };

	return node->opt_outs4 && map_lookup(&plab2_opt_out4, &key);
}

INLINE int opted_out6(struct node *node, const __u32 address[4])
{
	struct prefix6 key = {
		.length = 128,
		.address = { address[0], address[1], address[2], address[3] },
	};

	return node->opt_outs6 && map_lookup(&plab2_opt_out6, &key);
}

#endif
