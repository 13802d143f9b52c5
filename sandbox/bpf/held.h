/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * Which ports are a capsule's for its raw sockets of UDP and TCP: those that its slice owns, those that one of its
 * sockets is on, and those that the kernel gave to one of its sockets that is on no list of the kernel's yet.
 * traceroute binds a socket of TCP to port 0 just to have its port, and sends from it by a raw one.
 *
 * A port is held by one socket, by its cookie, from its bind(2) until it is closed: the first that is given it, so
 * that who gets the same port for another address (SO_REUSEADDR) takes it from nobody. A socket that connect(2) has
 * let go of its port keeps it here until it is closed; so a socket that is found on the port always decides before
 * this does.
 */
#ifndef PLAB_HELD_H
#define PLAB_HELD_H

#include "packet.h"
#include "state.h"

/* Who holds a port: a cgroup that is gone holds nothing. */
struct held {
	__u64 cgroup;
	__u64 cookie;
};

/* By `class << 16 | port`, of TCP and of UDP. */
SECTION("maps") struct bpf_map_def plab2_held = {
	BPF_MAP_TYPE_HASH, sizeof(__u32), sizeof(struct held), 2 << 16, BPF_F_NO_PREALLOC,
};

/* What a socket holds, by its cookie. */
SECTION("maps") struct bpf_map_def plab2_holds = {
	BPF_MAP_TYPE_HASH, sizeof(__u64), sizeof(__u32), 2 << 16, BPF_F_NO_PREALLOC,
};

/* Takes back what a socket holds. */
INLINE void let_go(__u64 cookie)
{
	__u32 *index = map_lookup(&plab2_holds, &cookie);
	struct held *held;
	__u32 key;

	if (!index)
		return;
	key = *index;
	held = map_lookup(&plab2_held, &key);
	if (held && held->cookie == cookie)
		map_delete(&plab2_held, &key);
	map_delete(&plab2_holds, &cookie);
}

/* Notes a port that nobody owns, which the kernel has given to a socket. What finds no room is not held. */
INLINE void hold(struct bpf_sock *ctx, struct capsule *capsule, __u64 cgroup, int class)
{
	__u32 key = (__u32)class << 16 | (__u16)ctx->src_port;
	__u64 cookie;
	struct held mine = { .cgroup = cgroup }, *held;

	if (class != CLASS_TCP && class != CLASS_UDP)
		return;
	if (!(capsule->flags & (class == CLASS_TCP ? CAPSULE_RAW_TCP : CAPSULE_RAW_UDP)))
		return;
	cookie = sock_cookie(ctx);
	mine.cookie = cookie;
	let_go(cookie);
	held = map_lookup(&plab2_held, &key);
	if (held && capsule_of(held->cgroup))
		return;
	if (held)
		map_delete(&plab2_held, &key);
	/* First what takes it back: a port that nobody could take back would be held for ever. */
	if (map_update(&plab2_holds, &cookie, &key, BPF_NOEXIST))
		return;
	if (map_update(&plab2_held, &key, &mine, BPF_NOEXIST))
		map_delete(&plab2_holds, &cookie);
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
	__u32 key = (__u32)class << 16 | port;
	struct capsule *holder;
	struct bpf_sock *sk;
	struct held *held;
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
	held = map_lookup(&plab2_held, &key);
	return held && held->cgroup == skb_cgroup_id(skb) ? HAS : HAS_NOT;
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
