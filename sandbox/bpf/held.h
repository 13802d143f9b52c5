/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * Which ports are a capsule's for its raw sockets of UDP and TCP: those that its slice owns, those that one of its
 * sockets is on, and those that the kernel gave to a socket of TCP that is on no list of the kernel's yet.
 * traceroute binds a socket of TCP to port 0 just to have its port, and sends from it by a raw one.
 *
 * Such a port is *held*, for the socket's version of IP, from bind(2) until connect(2) or the socket's end. A socket that
 * is found on the port decides before this does, also one in TIME_WAIT. Nobody holds a port that another slice's socket
 * was given meanwhile (two may be on one, at different addresses), or has opened a connection from: until the last that
 * held it is closed.
 */
#ifndef PLAB_HELD_H
#define PLAB_HELD_H

#include "packet.h"
#include "state.h"

/* Who holds a port: `UID << 32 | CONTESTED | how many sockets`, and without a socket nobody. The index is `v6 << 16 | port`. */
SECTION("maps") struct bpf_map_def plab2_held_tcp = {
	BPF_MAP_TYPE_ARRAY, sizeof(__u32), sizeof(__u64), 2 << 16, 0,
};
#define CONTESTED (1ull << 31)
#define HOLDERS (CONTESTED - 1)

/*
 * `v6 << 16 | port` of the port that a socket holds, 0 if none yet. Who may hold one has this from its making on: of a
 * socket that the kernel makes by itself, as a part of one of MPTCP, nobody hears when it is closed.
 */
SECTION("maps") struct bpf_map_def plab2_holding = {
	BPF_MAP_TYPE_SK_STORAGE, sizeof(__u32), sizeof(__u64), 0, BPF_F_NO_PREALLOC,
};

/* A new socket of TCP of the capsule's: it may hold a port. If there is no memory, it may not. */
INLINE void may_hold(struct bpf_sock *ctx, const struct capsule *capsule)
{
	if (capsule->flags & CAPSULE_RAW_TCP)
		sk_storage_get(&plab2_holding, ctx, 0, BPF_SK_STORAGE_GET_F_CREATE);
}

/* Takes back what a socket holds. */
INLINE void let_go(struct bpf_sock *sk)
{
	__u64 *holding = sk_storage_get(&plab2_holding, sk, 0, 0), *held;
	__u32 index;

	if (!holding || !*holding)
		return;
	index = *holding;
	*holding = 0;
	held = map_lookup(&plab2_held_tcp, &index);
	if (held)
		__sync_fetch_and_add(held, -1);
}

/* A port that nobody owns is used by the slice: whoever else holds it does so no more. */
INLINE void contest(__u32 uid, int v6, __u16 port)
{
	__u32 index = (v6 ? 1 << 16 : 0) | port;
	__u64 *held = map_lookup(&plab2_held_tcp, &index);

	if (held && (*held & HOLDERS) && *held >> 32 != uid)
		__sync_fetch_and_or(held, CONTESTED);
}

/* Notes a port that nobody owns, which the kernel has given to a socket; 0 if that was not possible. */
INLINE int hold(struct bpf_sock *ctx, __u32 uid)
{
	__u64 *holding = sk_storage_get(&plab2_holding, ctx, 0, 0), *held, old, next;
	int v6 = ctx->family == AF_INET6;
	__u32 index = (v6 ? 1 << 16 : 0) | (__u16)ctx->src_port;

	if (!holding) {
		contest(uid, v6, ctx->src_port);
		return 1;
	}
	let_go(ctx);
	held = map_lookup(&plab2_held_tcp, &index);
	if (!held)
		return 0;
	/* Again if another CPU was faster. */
#pragma unroll
	for (int i = 0; i < 4; i++) {
		old = *(volatile __u64 *)held;
		if (!(old & HOLDERS))
			next = (__u64)uid << 32 | 1;
		else if (old >> 32 == uid)
			next = old + 1;
		else
			next = (old | CONTESTED) + 1;
		if (__sync_val_compare_and_swap(held, old, next) == old) {
			*holding = index;
			return 1;
		}
	}
	return 0;
}

/* Whether a port is the capsule's; HAS_SOCKET if a socket of its own gets what arrives there. */
enum has { HAS_NOT, HAS, HAS_SOCKET };

/*
 * Whether a port is the capsule's. `tuple` is a packet's to that port: from the remote side. Whoever's socket gets such
 * packets has the port, before anybody who only holds it; who owns it has it in any case.
 */
INLINE enum has has_port(struct __sk_buff *skb, struct capsule *capsule, int v6, __u32 protocol, struct bpf_sock_tuple *tuple)
{
	enum class class = protocol == PROTO_TCP ? CLASS_TCP : CLASS_UDP;
	__u16 port = ntohs(v6 ? tuple->ipv6.dport : tuple->ipv4.dport);
	__u32 owner = owner_of(class, port);
	__u32 index = (v6 ? 1 << 16 : 0) | port;
	struct capsule *holder;
	struct bpf_sock *sk;
	__u64 *held;
	int is_own;

	if (owner != OWNER_NOBODY && owner != capsule->uid)
		return HAS_NOT;
	if (protocol == PROTO_TCP)
		sk = v6 ? sk_lookup_tcp(skb, tuple, sizeof(tuple->ipv6), BPF_F_CURRENT_NETNS, 0)
			: sk_lookup_tcp(skb, tuple, sizeof(tuple->ipv4), BPF_F_CURRENT_NETNS, 0);
	else
		sk = v6 ? sk_lookup_udp(skb, tuple, sizeof(tuple->ipv6), BPF_F_CURRENT_NETNS, 0)
			: sk_lookup_udp(skb, tuple, sizeof(tuple->ipv4), BPF_F_CURRENT_NETNS, 0);
	if (sk) {
		holder = capsule_of(sk_cgroup_id(sk));
		is_own = holder && holder->uid == capsule->uid;
		sk_release(sk);
		if (is_own)
			return HAS_SOCKET;
		/* What sshd has on a slice's port it has for the slice. */
		return owner == OWNER_NOBODY ? HAS_NOT : HAS;
	}
	if (owner != OWNER_NOBODY)
		return HAS;
	/* The kernel finds every socket of UDP that gets such packets. */
	if (protocol != PROTO_TCP)
		return HAS_NOT;
	/* Whose connection it was that is in TIME_WAIT nobody knows. */
	sk = v6 ? skc_lookup_tcp(skb, tuple, sizeof(tuple->ipv6), BPF_F_CURRENT_NETNS, 0)
		: skc_lookup_tcp(skb, tuple, sizeof(tuple->ipv4), BPF_F_CURRENT_NETNS, 0);
	if (sk) {
		sk_release(sk);
		return HAS_NOT;
	}
	held = map_lookup(&plab2_held_tcp, &index);
	return held && (*held & HOLDERS) && !(*held & CONTESTED) && *held >> 32 == capsule->uid ? HAS : HAS_NOT;
}

/* The same for a packet that the capsule sends or gets. */
INLINE enum has has_port_of(struct __sk_buff *skb, struct capsule *capsule, const struct flow_key *key)
{
	struct bpf_sock_tuple tuple = {};

	if (key->family == 4) {
		tuple.ipv4.saddr = key->remote[0];
		tuple.ipv4.daddr = key->local[0];
		tuple.ipv4.sport = htons(key->remote_port);
		tuple.ipv4.dport = htons(key->local_port);
	} else {
		__builtin_memcpy(tuple.ipv6.saddr, key->remote, 16);
		__builtin_memcpy(tuple.ipv6.daddr, key->local, 16);
		tuple.ipv6.sport = htons(key->remote_port);
		tuple.ipv6.dport = htons(key->local_port);
	}
	return has_port(skb, capsule, key->family == 6, key->protocol, &tuple);
}

#endif
