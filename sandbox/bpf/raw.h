/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * Raw sockets, of capsules whose definition has `raw`: echo requests out, and in what answers the slice's own packets.
 *
 * An echo's ID is to ICMP what a port is to UDP, so it is property as well: of the slice that used it first, until it
 * has not used it for a minute. Sockets of the kernel's own ping have IDs out of the same array. A source address cannot
 * be forged: the kernel writes every header, because no raw socket may bring its own (IP_HDRINCL, IPPROTO_RAW).
 */
#ifndef PLAB_RAW_H
#define PLAB_RAW_H

#include "packet.h"
#include "state.h"

#define SOCK_RAW_TYPE 3

/* It may have raw sockets of ICMP, of ICMP for IPv6. */
#define CAPSULE_RAW_ICMP 2
#define CAPSULE_RAW_ICMP6 4
/* It was born with CAP_NET_RAW, and has it until it ends, also when its slice may have raw sockets no more. */
#define CAPSULE_NET_RAW 8

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
	if (old >> 32 != uid && old && now - (__u32)old < ECHO_SECONDS)
		return 0;
	/* Keeping one over a minute counts as taking it, or a slice would gather all of them. */
	if ((old >> 32 != uid || (__u32)old / 60 != now / 60) && !may_take(uid, now))
		return 0;
	if (__sync_val_compare_and_swap(owner, old, mine) == old)
		return 1;
	/* Another CPU was faster; whether for this slice, it says itself. */
	return *(volatile __u64 *)owner >> 32 == uid;
}

/* The address as an echo's key has it. */
INLINE void set_remote(struct echo *echo, int v6, const __u32 *address)
{
	if (v6) {
		echo->remote[0] = address[0];
		echo->remote[1] = address[1];
		echo->remote[2] = address[2];
		echo->remote[3] = address[3];
	} else {
		echo->remote[0] = 0;
		echo->remote[1] = 0;
		echo->remote[2] = 0xffff0000;
		echo->remote[3] = address[0];
	}
}

/* What is sent by ICMP: an echo request with an ID that is the slice's, and nothing else. Errors, redirects and router
 * advertisements would be believed by others. */
INLINE int may_ping(struct __sk_buff *skb, struct capsule *capsule, const struct flow_key *key)
{
	int v6 = key->family == 6;
	struct echo echo = {};
	__u32 now = seconds_since_boot();
	/* Type, code, checksum, ID, sequence number. */
	__u8 header[8];

	if (key->protocol != (v6 ? PROTO_ICMPV6 : PROTO_ICMP))
		return 0;
	if (skb_load_bytes(skb, v6 ? 40 : 20, header, sizeof(header)))
		return 0;
	if (header[0] != (v6 ? 128 : 8) || header[1] != 0)
		return 0;
	__builtin_memcpy(&echo.id, &header[4], 2);
	__builtin_memcpy(&echo.sequence, &header[6], 2);
	echo.uid = capsule->uid;
	set_remote(&echo, v6, key->remote);
	if (!take_id(v6, echo.id, capsule->uid, now))
		return 0;
	return !map_update(&plab2_echo_sent, &echo, &now, BPF_ANY);
}

/*
 * What a capsule with CAP_NET_RAW could do to packets beyond others: a mark, which chooses routes and passes firewalls; a
 * priority, which is a class of the node's shaping; packets of a protocol that it was not granted.
 */
INLINE int may_leave_raw(struct __sk_buff *skb, struct capsule *capsule)
{
	struct bpf_sock *sk = skb->sk;
	__u8 field[2];

	if (skb->mark)
		return 0;
	/* Up to 6 anybody may set (TC_PRIO_INTERACTIVE). */
	if (!capsule->classid && skb->priority > 6)
		skb->priority = 0;
	if (sk)
		sk = sk_fullsock(sk);
	if (!sk || sk->type != SOCK_RAW_TYPE)
		return 1;
	if (skb->protocol == htons(ETHERTYPE_IP)) {
		/* Whole: a later fragment has no header to look at. */
		if (skb_load_bytes(skb, 6, field, 2) || (field[0] & 0x3f) || field[1])
			return 0;
		if (skb_load_bytes(skb, 9, field, 1))
			return 0;
		return field[0] == PROTO_ICMP && (capsule->flags & CAPSULE_RAW_ICMP);
	}
	if (skb_load_bytes(skb, 6, field, 1))
		return 0;
	return field[0] == PROTO_ICMPV6 && (capsule->flags & CAPSULE_RAW_ICMP6);
}

/* Whether an echo of this ID and sequence number to this address was the slice's. */
INLINE int has_sent(const struct echo *echo, int v6)
{
	__u64 *owner = echo_id(v6, echo->id);
	__u32 *sent;

	if (!owner || *owner >> 32 != echo->uid)
		return 0;
	sent = map_lookup(&plab2_echo_sent, echo);
	return sent && seconds_since_boot() - *sent <= ECHO_SECONDS;
}

/* Whether a port that a packet came from is the slice's: its own, or one that a socket of its capsule is on now. */
INLINE int is_from(struct __sk_buff *skb, struct capsule *capsule, int v6, __u32 protocol, struct bpf_sock_tuple *tuple)
{
	enum class class = protocol == PROTO_TCP ? CLASS_TCP : CLASS_UDP;
	__u16 port = ntohs(v6 ? tuple->ipv6.dport : tuple->ipv4.dport);
	__u32 owner = owner_of(class, port);
	struct capsule *holder;
	struct bpf_sock *sk;
	int is;

	if (owner != OWNER_NOBODY)
		return owner == capsule->uid;
	if (protocol == PROTO_TCP)
		sk = v6 ? sk_lookup_tcp(skb, tuple, sizeof(tuple->ipv6), BPF_F_CURRENT_NETNS, 0)
			: sk_lookup_tcp(skb, tuple, sizeof(tuple->ipv4), BPF_F_CURRENT_NETNS, 0);
	else
		sk = v6 ? sk_lookup_udp(skb, tuple, sizeof(tuple->ipv6), BPF_F_CURRENT_NETNS, 0)
			: sk_lookup_udp(skb, tuple, sizeof(tuple->ipv4), BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return 0;
	holder = capsule_of(sk_cgroup_id(sk));
	is = holder && holder->uid == capsule->uid;
	sk_release(sk);
	return is;
}

/* Whether the packet that an ICMP error quotes, at `offset`, was the slice's. */
INLINE int is_about_own(struct __sk_buff *skb, struct capsule *capsule, int v6, __u32 offset)
{
	struct bpf_sock_tuple tuple = {};
	struct echo echo = {};
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
		echo.uid = capsule->uid;
		echo.id = words[2];
		echo.sequence = words[3];
		set_remote(&echo, v6, remote);
		return has_sent(&echo, v6);
	}
	if (protocol != PROTO_TCP && protocol != PROTO_UDP)
		return 0;
	return is_from(skb, capsule, v6, protocol, &tuple);
}

/* Whether it is one that gets ICMP: a raw socket, or the kernel's own ping, whose ID another's raw socket may use. */
INLINE int gets_icmp(const struct bpf_sock *sk)
{
	return sk->type == SOCK_RAW_TYPE || sk->protocol == PROTO_ICMP || sk->protocol == PROTO_ICMPV6;
}

/* Whether a socket of the capsule that gets ICMP gets this packet; others are not asked about. */
INLINE int may_hear(struct __sk_buff *skb, struct capsule *capsule)
{
	int v6 = skb->protocol == htons(ETHERTYPE_IPV6);
	struct bpf_sock *sk = skb->sk;
	struct echo echo = {};
	__u32 remote[4] = {};
	__u32 offset = 40;
	__u8 protocol, length, header[8];

	if (sk)
		sk = sk_fullsock(sk);
	if (!sk)
		return 0;
	if (!gets_icmp(sk))
		return 1;
	if (sk->type == SOCK_RAW_TYPE && !(capsule->flags & (v6 ? CAPSULE_RAW_ICMP6 : CAPSULE_RAW_ICMP)))
		return 0;
	if (skb_load_bytes(skb, v6 ? 6 : 9, &protocol, 1) || protocol != (v6 ? PROTO_ICMPV6 : PROTO_ICMP))
		return 0;
	if (v6) {
		if (skb_load_bytes(skb, 8, remote, 16))
			return 0;
	} else {
		if (skb_load_bytes(skb, 0, &length, 1) || skb_load_bytes(skb, 12, remote, 4))
			return 0;
		offset = (length & 0xf) * 4;
	}
	if (skb_load_bytes(skb, offset, header, sizeof(header)))
		return 0;
	if (header[0] == (v6 ? 129 : 0)) {
		echo.uid = capsule->uid;
		__builtin_memcpy(&echo.id, &header[4], 2);
		__builtin_memcpy(&echo.sequence, &header[6], 2);
		set_remote(&echo, v6, remote);
		return has_sent(&echo, v6);
	}
	/* Unreachable, too big, time exceeded, a parameter problem. Not redirects: they are the kernel's to follow. */
	if (v6 ? header[0] >= 1 && header[0] <= 4 : header[0] == 3 || header[0] == 11 || header[0] == 12)
		return is_about_own(skb, capsule, v6, offset + 8);
	return 0;
}

/*
 * Options by which CAP_NET_RAW would reach further than the slice's own packets:
 * a header of one's own, and with it any source address (IP_HDRINCL); others' packets to be forwarded (IP_ROUTER_ALERT); to
 * become the node's multicast router (MRT_INIT and what follows, MRT6_INIT asks for no other capability); extension
 * headers; marks.
 */
INLINE int is_raw_option(struct bpf_sockopt *ctx)
{
	int name = ctx->optname;

	switch (ctx->level) {
	case 0:
		return name == 3 || name == 5 || (name >= 200 && name <= 220);
	case 1:
		return name == 36 /* SO_MARK */ || name == 75 /* SO_RCVMARK */;
	/* SOL_RAW: a raw socket of IPv6 takes IPV6_HDRINCL there, too. */
	case 255:
		return name == 36;
	case 41:
		return name == 36 || name == 22 || (name >= 200 && name <= 220) ||
		       name == 3 || name == 4 || name == 6 || name == 54 || name == 55 || name == 59;
	default:
		return 0;
	}
}

/*
 * IP_RECVERR and its like on a socket that gets ICMP: the kernel would queue errors about anybody's packets there, each with a piece of
 * the packet, and asks no program. ping ends if it cannot set it, so it is told that it did: errors about what the slice
 * sent itself arrive as packets all the same.
 */
INLINE int is_recverr(struct bpf_sockopt *ctx)
{
	if (!ctx->sk || !gets_icmp(ctx->sk))
		return 0;
	if (ctx->level == 0)
		return ctx->optname == 11 || ctx->optname == 26;
	return ctx->level == 41 && (ctx->optname == 25 || ctx->optname == 31);
}

#endif
