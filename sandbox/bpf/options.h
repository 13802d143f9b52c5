/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/* Socket options by which a capsule would reach further than its own packets; the numbers are the kernel's. */
#ifndef PLAB_OPTIONS_H
#define PLAB_OPTIONS_H

#include "raw.h"
#include "state.h"

#define SOL_IP 0
#define IP_HDRINCL 3
#define IP_OPTIONS 4
#define IP_ROUTER_ALERT 5
#define IP_RECVERR 11
#define IP_FREEBIND 15
#define IP_TRANSPARENT 19
#define IP_RECVERR_RFC4884 26

#define SOL_SOCKET 1
#define SO_MARK 36
#define SO_RCVMARK 75

#define SOL_IPV6 41
#define IPV6_2292HOPOPTS 3
#define IPV6_2292DSTOPTS 4
#define IPV6_2292RTHDR 5
#define IPV6_2292PKTOPTIONS 6
#define IPV6_ROUTER_ALERT 22
#define IPV6_RECVERR 25
#define IPV6_RECVERR_RFC4884 31
#define IPV6_HDRINCL 36
#define IPV6_HOPOPTS 54
#define IPV6_RTHDRDSTOPTS 55
#define IPV6_RTHDR 57
#define IPV6_DSTOPTS 59
#define IPV6_TRANSPARENT 75
#define IPV6_FREEBIND 78

#define SOL_RAW 255

/* MRT_INIT, MRT6_INIT and what follows them: to become the node's multicast router. */
#define MRT_FIRST 200
#define MRT_LAST 220

/*
 * Whether the capsule may set it. Not to anybody: addresses that are not the node's to bind to (a v6 packet from such
 * a one would leave), and routes that the sender chooses, with which a packet's destination is not where it ends.
 * What else is refused asks the kernel only for CAP_NET_RAW: marks, others' packets to be forwarded, extension
 * headers, a header of one's own; that one is looked at where it is of IPv4.
 */
INLINE int may_set(struct capsule *capsule, int level, int name)
{
	switch (level) {
	case SOL_IP:
		if (name == IP_HDRINCL)
			return (capsule->flags & CAPSULE_OWN_HEADER) != 0;
		return name != IP_OPTIONS && name != IP_FREEBIND && name != IP_TRANSPARENT &&
		       name != IP_ROUTER_ALERT && (name < MRT_FIRST || name > MRT_LAST);
	case SOL_SOCKET:
		return name != SO_MARK && name != SO_RCVMARK;
	/* A raw socket of IPv6 takes it there, too. */
	case SOL_RAW:
		return name != IPV6_HDRINCL;
	case SOL_IPV6:
		return name != IPV6_2292RTHDR && name != IPV6_RTHDR && name != IPV6_TRANSPARENT &&
		       name != IPV6_FREEBIND && name != IPV6_HDRINCL && name != IPV6_ROUTER_ALERT &&
		       name != IPV6_2292HOPOPTS && name != IPV6_2292DSTOPTS && name != IPV6_2292PKTOPTIONS &&
		       name != IPV6_HOPOPTS && name != IPV6_RTHDRDSTOPTS && name != IPV6_DSTOPTS &&
		       (name < MRT_FIRST || name > MRT_LAST);
	default:
		return 1;
	}
}

/*
 * IP_RECVERR and its like on a socket that gets ICMP: the kernel would queue errors about anybody's packets there,
 * each with a piece of the packet, and asks no program. ping ends if it cannot set it, so it is told that it did:
 * errors about what the slice sent itself arrive as packets all the same.
 */
INLINE int is_recverr(struct bpf_sockopt *ctx, int level, int name)
{
	if (!ctx->sk || !gets_icmp(ctx->sk))
		return 0;
	if (level == SOL_IP)
		return name == IP_RECVERR || name == IP_RECVERR_RFC4884;
	return level == SOL_IPV6 && (name == IPV6_RECVERR || name == IPV6_RECVERR_RFC4884);
}

#endif
