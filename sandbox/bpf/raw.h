/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * Raw sockets, of capsules whose definition has `raw`: echo requests out, UDP and TCP from ports of its own, and in
 * what is for these, or answers the slice's own packets.
 *
 * Who may have one of ICMP, UDP or TCP for IPv4 may bring its own header (IP_HDRINCL, IPPROTO_RAW), so every packet
 * of a raw socket is looked at as if it had: its protocol, its source address, that it is whole and has no options.
 */
#ifndef PLAB_RAW_H
#define PLAB_RAW_H

#include "echo.h"
#include "held.h"
#include "local.h"
#include "packet.h"
#include "state.h"

/* The node's addresses, v4 in v6 clothes, but for those of loopback: plabd keeps them. */
SECTION("maps") struct bpf_map_def plab2_addresses = {
	BPF_MAP_TYPE_HASH, 16, sizeof(__u32), 16384, BPF_F_NO_PREALLOC,
};

/* What a capsule needs for raw packets of the protocol; nothing can have it for others. */
INLINE __u32 flag_of(int v6, __u32 protocol)
{
	switch (protocol) {
	case PROTO_ICMP:
		return v6 ? 0 : CAPSULE_RAW_ICMP;
	case PROTO_ICMPV6:
		return v6 ? CAPSULE_RAW_ICMP6 : 0;
	case PROTO_UDP:
		return CAPSULE_RAW_UDP;
	case PROTO_TCP:
		return CAPSULE_RAW_TCP;
	default:
		return 0;
	}
}

/* Whether the capsule may make this raw socket. */
INLINE int may_make_raw(struct bpf_sock *ctx, struct capsule *capsule)
{
	if (ctx->family == AF_INET && ctx->protocol == PROTO_RAW)
		return (capsule->flags & CAPSULE_OWN_HEADER) != 0;
	if (ctx->family != AF_INET && ctx->family != AF_INET6)
		return 0;
	return (capsule->flags & flag_of(ctx->family == AF_INET6, ctx->protocol)) != 0;
}

/*
 * How many raw sockets a capsule may have: each gets a copy of every packet of its protocol that arrives for anybody, and
 * a program says no to it on nobody's account.
 */
#define RAW_SOCKETS 64

/* How many it has, by its cgroup. */
SECTION("maps") struct bpf_map_def plab2_raws = {
	BPF_MAP_TYPE_HASH, sizeof(__u64), sizeof(__u64), CAPSULES, BPF_F_NO_PREALLOC,
};

/* By raw socket: the cgroup where it is counted, which need not be that of who closes it. */
SECTION("maps") struct bpf_map_def plab2_raw_of = {
	BPF_MAP_TYPE_SK_STORAGE, sizeof(__u32), sizeof(__u64), 0, BPF_F_NO_PREALLOC,
};

/* Counts a raw socket that is made; 0 if there are too many. */
INLINE int count_raw(struct bpf_sock *ctx, __u64 cgroup)
{
	__u64 none = 0, *count = map_lookup(&plab2_raws, &cgroup), *of;

	if (!count) {
		map_update(&plab2_raws, &cgroup, &none, BPF_NOEXIST);
		count = map_lookup(&plab2_raws, &cgroup);
	}
	of = count ? sk_storage_get(&plab2_raw_of, ctx, 0, BPF_SK_STORAGE_GET_F_CREATE) : 0;
	if (!of)
		return 0;
	if (__sync_fetch_and_add(count, 1) >= RAW_SOCKETS) {
		__sync_fetch_and_add(count, -1);
		return 0;
	}
	*of = cgroup;
	return 1;
}

/* Counts a raw socket no more, if this is one. */
INLINE void uncount_raw(struct bpf_sock *ctx)
{
	__u64 *of = sk_storage_get(&plab2_raw_of, ctx, 0, 0), *count, cgroup;

	if (!of || !(cgroup = *of))
		return;
	*of = 0;
	count = map_lookup(&plab2_raws, &cgroup);
	if (count)
		__sync_fetch_and_add(count, -1);
}

INLINE int is_loopback(__u8 family, const __u32 *address)
{
	if (family == 4)
		return (address[0] & 0xff) == 127;
	return !(address[0] | address[1] | address[2]) && address[3] == 0x01000000;
}

/* What to take nobody for at an address of this machine. */
INLINE enum unfound unfound_at(__u8 family, const __u32 *address)
{
	return is_loopback(family, address) ? UNFOUND_MAY : UNFOUND_MAY_NOT;
}

/* Whether packets to the address stay on the machine, by what is known of its addresses. */
INLINE int is_here(__u8 family, const __u32 *address)
{
	__u32 clothed[4];

	if (is_loopback(family, address))
		return 1;
	clothe(clothed, family == 6, address);
	return map_lookup(&plab2_addresses, clothed) != 0;
}

enum raw { RAW_REFUSED, NOT_RAW, RAW };

/* Whether it is a raw socket's packet. By the socket: what is known of a capsule may be newer than its sockets. */
INLINE int is_raw(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	if (sk)
		sk = sk_fullsock(sk);
	return sk && sk->type == SOCK_RAW;
}

/*
 * What a capsule with CAP_NET_RAW could do to packets beyond others: a mark, which chooses routes and passes
 * firewalls; a priority, which is a class of the node's shaping; packets of a protocol that it was not granted; a
 * header with another's address; one with an address that is not where the packet goes, for the route is chosen by
 * what sendto(2) is told: a packet for loopback would get to the neighbours, and one for the node's services out and
 * in again.
 */
INLINE enum raw may_leave_raw(struct __sk_buff *skb, struct capsule *capsule, const struct flow_key *key)
{
	__u8 fragment[2];

	if (capsule->flags & CAPSULE_NET_RAW) {
		if (skb->mark)
			return RAW_REFUSED;
		/* Up to 6 anybody may set (TC_PRIO_INTERACTIVE). */
		if (!capsule->classid && skb->priority > 6)
			skb->priority = 0;
	}
	if (!is_raw(skb))
		return NOT_RAW;
	/* Whole: a later fragment has no header to look at. */
	if (key->family == 4 && (skb_load_bytes(skb, 6, fragment, 2) || (fragment[0] & 0xbf) || fragment[1]))
		return RAW_REFUSED;
	if (!(capsule->flags & flag_of(key->family == 6, key->protocol)))
		return RAW_REFUSED;
	if (!is_here(key->family, key->local))
		return RAW_REFUSED;
	if (skb->ifindex == LOOPBACK)
		return is_here(key->family, key->remote) ? RAW : RAW_REFUSED;
	return is_loopback(key->family, key->local) || is_here(key->family, key->remote) ? RAW_REFUSED : RAW;
}

/*
 * Whether TCP from a raw socket may be delivered on this machine: to a capsule's socket, or where there is none. Not
 * only what opens a connection is looked at, because the rest need not be of one; and not only the connection is
 * looked for but also who listens there.
 */
INLINE int may_inject(struct __sk_buff *skb, struct bpf_sock_tuple *tuple, int v6, __be16 from, enum unfound unfound)
{
	if (!may_open(skb, tuple, v6, unfound))
		return 0;
	if (v6)
		tuple->ipv6.sport = from;
	else
		tuple->ipv4.sport = from;
	return may_open(skb, tuple, v6, unfound);
}

/* Whether the packet that an ICMP error quotes, at `offset`, was the slice's. */
INLINE int is_about_own(struct __sk_buff *skb, struct capsule *capsule, int v6, __u32 offset)
{
	struct bpf_sock_tuple tuple = {};
	struct echo echo;
	__u32 remote[4] = {};
	__be16 words[4];
	__u8 first, protocol;

	if (skb_load_bytes(skb, offset, &first, 1) || skb_load_bytes(skb, offset + (v6 ? 6 : 9), &protocol, 1))
		return 0;
	/* No capsule sends options or extension headers. */
	if (v6 ? first >> 4 != 6 : first != 0x45)
		return 0;
	if (skb_load_bytes(skb, offset + (v6 ? 40 : 20), words, sizeof(words)))
		return 0;
	/* The quoted packet's receiver is the remote side. */
	if (v6) {
		if (skb_load_bytes(skb, offset + 24, remote, 16) || skb_load_bytes(skb, offset + 8, tuple.ipv6.daddr, 16))
			return 0;
		__builtin_memcpy(tuple.ipv6.saddr, remote, 16);
		tuple.ipv6.sport = words[1];
		tuple.ipv6.dport = words[0];
	} else {
		if (skb_load_bytes(skb, offset + 16, remote, 4) || skb_load_bytes(skb, offset + 12, &tuple.ipv4.daddr, 4))
			return 0;
		tuple.ipv4.saddr = remote[0];
		tuple.ipv4.sport = words[1];
		tuple.ipv4.dport = words[0];
	}
	if (protocol == (v6 ? PROTO_ICMPV6 : PROTO_ICMP)) {
		/* Type and code of an echo request. */
		if (words[0] != htons(v6 ? 128 << 8 : 8 << 8))
			return 0;
		read_echo(&echo, capsule, v6, remote, &words[2]);
		return has_sent(&echo, v6);
	}
	if (protocol != PROTO_TCP && protocol != PROTO_UDP)
		return 0;
	return has_port(skb, capsule, v6, protocol, &tuple) != HAS_NOT;
}

/* Whether it is one that gets ICMP: a raw socket, or the kernel's own ping, whose ID another's raw socket may use. */
INLINE int gets_icmp(const struct bpf_sock *sk)
{
	return sk->type == SOCK_RAW || sk->protocol == PROTO_ICMP || sk->protocol == PROTO_ICMPV6;
}

/*
 * Whether a raw socket of the capsule, or one that gets ICMP, gets this packet; others are not asked about. None gets
 * one with something unusual in it. HAS_SOCKET if it is counted where an ordinary socket of the capsule gets it, too.
 */
INLINE enum has may_hear(struct __sk_buff *skb, struct capsule *capsule, const struct packet *packet)
{
	const struct flow_key *key = &packet->key;
	int v6 = key->family == 6;
	struct bpf_sock *sk = skb->sk;
	struct echo echo;
	/* Type, code, checksum, ID, sequence number. */
	__u8 header[8];

	if (sk)
		sk = sk_fullsock(sk);
	if (!sk)
		return HAS_NOT;
	if (!gets_icmp(sk))
		return HAS;
	if (!packet->plain || (sk->type == SOCK_RAW && !(capsule->flags & flag_of(v6, sk->protocol))))
		return HAS_NOT;
	if (key->protocol == PROTO_UDP || key->protocol == PROTO_TCP)
		return sk->protocol == key->protocol ? has_port_of(skb, capsule, key) : HAS_NOT;
	if (key->protocol != (v6 ? PROTO_ICMPV6 : PROTO_ICMP) || sk->protocol != key->protocol)
		return HAS_NOT;
	if (skb_load_bytes(skb, v6 ? 40 : 20, header, sizeof(header)))
		return HAS_NOT;
	if (header[0] == (v6 ? 129 : 0)) {
		read_echo(&echo, capsule, v6, key->remote, &header[4]);
		return has_sent(&echo, v6) ? HAS : HAS_NOT;
	}
	/* Unreachable, too big, time exceeded, a parameter problem. Not redirects: they are the kernel's to follow. */
	if (v6 ? header[0] >= 1 && header[0] <= 4 : header[0] == 3 || header[0] == 11 || header[0] == 12)
		return is_about_own(skb, capsule, v6, v6 ? 48 : 28) ? HAS : HAS_NOT;
	return HAS_NOT;
}

#endif
