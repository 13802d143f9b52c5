/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * Who is at the other end of what stays on this machine.
 *
 * A capsule may talk to capsules, and to nobody else here: what the node runs for itself on loopback trusts whoever can
 * reach it. So the receiver is looked up before anything is delivered, by its socket, not by its port: a port that is
 * nobody's may be a capsule's ephemeral one or a service of the node's.
 */
#ifndef PLAB_LOCAL_H
#define PLAB_LOCAL_H

#include "state.h"

/* The loopback device has this index in every network namespace, and all that stays on the machine goes through it. */
#define LOOPBACK 1

/*
 * What becomes of a packet for which no socket was found. A socket that is bound to a device is not found: the kernel
 * looks for it by the device that has the address, and a program by loopback. So where it could be the node's, as on its
 * own addresses and a port that is nobody's, it is taken for one; at 127.0.0.0/8 and ::1 there is none.
 */
enum unfound { UNFOUND_MAY_NOT, UNFOUND_MAY };

/*
 * Whether a connection may be opened to who listens there. Only listeners are looked for, as from a source port of 0:
 * an old connection of somebody else's with the same four numbers, in TIME_WAIT, would hide the listener otherwise.
 */
INLINE int may_open(struct __sk_buff *skb, struct bpf_sock_tuple *tuple, int v6, enum unfound unfound)
{
	struct bpf_sock *sk;
	int may;

	/* The size of the tuple says which it is, and has to be a constant. */
	if (v6)
		sk = sk_lookup_tcp(skb, tuple, sizeof(tuple->ipv6), BPF_F_CURRENT_NETNS, 0);
	else
		sk = sk_lookup_tcp(skb, tuple, sizeof(tuple->ipv4), BPF_F_CURRENT_NETNS, 0);
	/* If nobody listens the kernel says so to the capsule. */
	if (!sk)
		return unfound == UNFOUND_MAY;
	may = capsule_of(sk_cgroup_id(sk)) != 0;
	sk_release(sk);
	return may;
}

/*
 * Whether a datagram may be delivered. A socket of the node's that was connected to this very capsule's port has asked
 * for it: that is an answer.
 */
INLINE int may_deliver(struct __sk_buff *skb, struct bpf_sock_tuple *tuple, int v6, __be16 from, enum unfound unfound)
{
	struct bpf_sock *sk;
	int may;

	if (v6)
		sk = sk_lookup_udp(skb, tuple, sizeof(tuple->ipv6), BPF_F_CURRENT_NETNS, 0);
	else
		sk = sk_lookup_udp(skb, tuple, sizeof(tuple->ipv4), BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return unfound == UNFOUND_MAY;
	may = sk->dst_port == from || capsule_of(sk_cgroup_id(sk)) != 0;
	sk_release(sk);
	return may;
}

/*
 * Whether connect(2) to this machine can be refused at once, as one to a service of the node's. Here the kernel does not
 * tell whose the listener is; but where it takes no ephemeral ports from, and the port is no slice's, it is no
 * capsule's. Otherwise the packet will be looked at.
 */
INLINE int is_the_nodes(struct bpf_sock_addr *ctx, struct node *node, struct bpf_sock_tuple *tuple, __u32 size, __u16 port,
			enum unfound unfound)
{
	__u32 owner = owner_of(CLASS_TCP, port);
	struct bpf_sock *sk;

	if (owner != OWNER_NOBODY && owner != OWNER_NODE)
		return 0;
	sk = sk_lookup_tcp(ctx, tuple, size, BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return unfound == UNFOUND_MAY_NOT;
	sk_release(sk);
	return !is_ephemeral(node, port);
}

#endif
