/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * What capsules may do on the network that all slices share.
 *
 * The programs are attached to the cgroup above every capsule's, so that a capsule is under them from its first
 * instruction to its last. The kernel runs them for sockets that were made below it: a socket that was handed to somebody
 * else is still its maker's. Where a process asks for something (bind, connect, a new socket), it is the asking
 * process's cgroup that says for whom; where a packet leaves, the socket's. So a socket that was handed on is of use only
 * where both may.
 *
 * Whatever is not known is refused: a cgroup without state, a protocol without ports, a header that is not understood.
 */
#include "helpers.h"
#include "local.h"
#include "state.h"
#include "raw.h"

#define REFUSE 0
#define PASS 1
/* See bind(2)'s EACCES and the kernel's BPF_RET_BIND_NO_CAP_NET_BIND_SERVICE: bit 1 says that no capability is needed. */
#define PASS_PRIVILEGED 3

#define AF_INET 2
#define AF_INET6 10
#define SOCK_STREAM 1
#define SOCK_DGRAM 2
#define SOCK_SEQPACKET 5

#define PROTO_ICMP 1
#define PROTO_TCP 6
#define PROTO_UDP 17
#define PROTO_ICMPV6 58
#define PROTO_SCTP 132
#define PROTO_UDPLITE 136
#define PROTO_MPTCP 262

#define ETHERTYPE_IP 0x0800
#define ETHERTYPE_IPV6 0x86dd

/* Whose property a port of the protocol is; -1 if the protocol has no ports that are known here. */
INLINE int class_of(__u32 protocol)
{
	switch (protocol) {
	case PROTO_TCP:
	case PROTO_MPTCP:
		return CLASS_TCP;
	case PROTO_UDP:
		return CLASS_UDP;
	case PROTO_SCTP:
		return CLASS_SCTP;
	case PROTO_UDPLITE:
		return CLASS_UDPLITE;
	default:
		return -1;
	}
}

/* Only sockets whose packets are understood below; raw ones for who was granted their protocol. */
SECTION("cgroup/sock_create")
int plab_sock(struct bpf_sock *ctx)
{
	struct capsule *capsule = capsule_of(current_cgroup_id());

	if (!capsule)
		return REFUSE;
	if (ctx->type == SOCK_RAW_TYPE) {
		if (ctx->family == AF_INET && ctx->protocol == PROTO_ICMP && (capsule->flags & CAPSULE_RAW_ICMP))
			return PASS;
		if (ctx->family == AF_INET6 && ctx->protocol == PROTO_ICMPV6 && (capsule->flags & CAPSULE_RAW_ICMP6))
			return PASS;
		goto refuse;
	}
	if (ctx->type != SOCK_STREAM && ctx->type != SOCK_DGRAM && ctx->type != SOCK_SEQPACKET)
		goto refuse;
	switch (ctx->protocol) {
	case PROTO_TCP:
	case PROTO_MPTCP:
	case PROTO_UDP:
	case PROTO_UDPLITE:
	/* Of type SOCK_DGRAM: the kernel's own safe ping, where net.ipv4.ping_group_range lets a slice have it. */
	case PROTO_ICMP:
	case PROTO_ICMPV6:
		return PASS;
	case PROTO_SCTP:
		/* The kernel shows no bind of SCTP to a program, so without a port there is no socket either. */
		if (capsule->flags & CAPSULE_SCTP)
			return PASS;
	}
refuse:
	COUNT_REFUSAL(capsule, other);
	return REFUSE;
}

INLINE int may_bind(struct bpf_sock_addr *ctx)
{
	struct capsule *capsule = capsule_of(current_cgroup_id());
	__u16 port = ntohs((__u16)ctx->user_port);
	int class = class_of(ctx->protocol);

	if (!capsule)
		return REFUSE;
	/* The kernel takes a port that is nobody's: allocations are reserved (ip_local_reserved_ports). */
	if (port == 0)
		return PASS;
	if (class >= 0 && owner_of(class, port) == capsule->uid)
		return PASS_PRIVILEGED;
	COUNT_REFUSAL(capsule, port);
	return REFUSE;
}

SECTION("cgroup/bind4")
int plab_bind4(struct bpf_sock_addr *ctx)
{
	return may_bind(ctx);
}

SECTION("cgroup/bind6")
int plab_bind6(struct bpf_sock_addr *ctx)
{
	return may_bind(ctx);
}

/* A look at the port that the kernel has chosen, in case somebody has changed the reserved ports under plabd. */
INLINE int may_keep(struct bpf_sock *ctx)
{
	struct capsule *capsule = capsule_of(current_cgroup_id());
	int class = class_of(ctx->protocol);
	__u32 owner;

	if (!capsule)
		return REFUSE;
	if (class < 0)
		return PASS;
	owner = owner_of(class, ctx->src_port);
	if (owner == OWNER_NOBODY || owner == capsule->uid)
		return PASS;
	COUNT_REFUSAL(capsule, port);
	return REFUSE;
}

SECTION("cgroup/post_bind4")
int plab_bound4(struct bpf_sock *ctx)
{
	return may_keep(ctx);
}

SECTION("cgroup/post_bind6")
int plab_bound6(struct bpf_sock *ctx)
{
	return may_keep(ctx);
}

/*
 * connect(2) is refused here so that it fails at once: a SYN that is dropped on its way out is sent again and again.
 * What holds is the check of the packet.
 */
INLINE int may_connect4(struct bpf_sock_addr *ctx, struct node *node, struct capsule *capsule, __u32 address)
{
	__u16 port = (__u16)ctx->user_port;
	struct bpf_sock_tuple tuple = {};

	if (opted_out4(node, address)) {
		COUNT_REFUSAL(capsule, opt_out);
		return REFUSE;
	}
	if (class_of(ctx->protocol) != CLASS_TCP)
		return PASS;
	/* 127.0.0.0/8 and the unspecified address, which means loopback. */
	if ((address & 0xff) != 127 && address != 0)
		return PASS;
	tuple.ipv4.daddr = address ? address : 0x0100007f;
	tuple.ipv4.saddr = 0x0100007f;
	tuple.ipv4.dport = port;
	if (!is_the_nodes(ctx, node, &tuple, sizeof(tuple.ipv4), ntohs(port)))
		return PASS;
	COUNT_REFUSAL(capsule, local);
	return REFUSE;
}

SECTION("cgroup/connect4")
int plab_connect4(struct bpf_sock_addr *ctx)
{
	struct capsule *capsule = capsule_of(current_cgroup_id());
	struct node *node = this_node();

	if (!capsule || !node)
		return REFUSE;
	return may_connect4(ctx, node, capsule, ctx->user_ip4);
}

SECTION("cgroup/connect6")
int plab_connect6(struct bpf_sock_addr *ctx)
{
	struct capsule *capsule = capsule_of(current_cgroup_id());
	struct node *node = this_node();
	struct bpf_sock_tuple tuple = {};
	__u32 address[4];
	__u16 port = (__u16)ctx->user_port;

	if (!capsule || !node)
		return REFUSE;
	address[0] = ctx->user_ip6[0];
	address[1] = ctx->user_ip6[1];
	address[2] = ctx->user_ip6[2];
	address[3] = ctx->user_ip6[3];
	/* A v4 address in v6 clothes: what leaves is v4. */
	if (address[0] == 0 && address[1] == 0 && address[2] == 0xffff0000)
		return may_connect4(ctx, node, capsule, address[3]);
	if (opted_out6(node, address)) {
		COUNT_REFUSAL(capsule, opt_out);
		return REFUSE;
	}
	if (class_of(ctx->protocol) != CLASS_TCP)
		return PASS;
	/* ::1, and the unspecified address. */
	if (address[0] || address[1] || address[2] || (address[3] & 0xfeffffff))
		return PASS;
	tuple.ipv6.daddr[3] = 0x01000000;
	tuple.ipv6.saddr[3] = 0x01000000;
	tuple.ipv6.dport = port;
	if (!is_the_nodes(ctx, node, &tuple, sizeof(tuple.ipv6), ntohs(port)))
		return PASS;
	COUNT_REFUSAL(capsule, local);
	return REFUSE;
}

/*
 * Addresses that are not the node's to bind to (a v6 packet from such a one would leave), and routes that the sender
 * chooses: with those a packet's destination is not where it ends.
 */
SECTION("cgroup/setsockopt")
int plab_setopt(struct bpf_sockopt *ctx)
{
	struct capsule *capsule;
	int refuse = 0;
	int length;

	if (ctx->level == 0)
		refuse = ctx->optname == 4 /* IP_OPTIONS */ || ctx->optname == 15 /* IP_FREEBIND */ ||
			 ctx->optname == 19 /* IP_TRANSPARENT */;
	else if (ctx->level == 41)
		refuse = ctx->optname == 5 /* IPV6_2292RTHDR */ || ctx->optname == 57 /* IPV6_RTHDR */ ||
			 ctx->optname == 75 /* IPV6_TRANSPARENT */ || ctx->optname == 78 /* IPV6_FREEBIND */;
	if (refuse || is_raw_option(ctx)) {
		capsule = capsule_of(current_cgroup_id());
		if (capsule)
			COUNT_REFUSAL(capsule, other);
		return REFUSE;
	}
	/*
	 * The kernel is to take the caller's own data, all of it, and not the first page that was copied for this; or with -1
	 * it is not asked. One store: the kernel takes no pointer into the context that was chosen between two.
	 */
	length = is_recverr(ctx) ? -1 : 0;
	asm volatile("" : "+r"(length));
	ctx->optlen = length;
	return PASS;
}

/* What matters of a packet. */
struct packet {
	struct bpf_sock_tuple tuple;
	int v6;
	__u32 protocol;
	__be16 sport;
	__be16 dport;
	__u8 syn;
};

/* Reads the ports, and for TCP whether a connection is opened, from the transport header at `offset`. */
INLINE int read_transport(struct __sk_buff *skb, struct packet *packet, __u32 offset)
{
	__be16 ports[2];
	__u8 flags;

	if (skb_load_bytes(skb, offset, ports, sizeof(ports)))
		return -1;
	packet->sport = ports[0];
	packet->dport = ports[1];
	packet->syn = 0;
	if (packet->protocol == PROTO_TCP) {
		if (skb_load_bytes(skb, offset + 13, &flags, sizeof(flags)))
			return -1;
		/* SYN, not ACK. */
		packet->syn = (flags & 0x12) == 0x02;
	}
	return 0;
}

/* What stays on the machine. */
INLINE int may_stay(struct __sk_buff *skb, struct capsule *capsule, struct packet *packet, int class,
		    __u32 source_owner)
{
	__u32 owner;

	if (class == CLASS_TCP && !packet->syn)
		return 1;
	owner = owner_of(class, ntohs(packet->dport));
	if (owner == OWNER_NODE_OPEN)
		return 1;
	/* Its own port: it is the slice's there, too, where sshd listens for it outside (ssh -R). */
	if (class == CLASS_TCP)
		return owner == capsule->uid || may_open(skb, &packet->tuple, packet->v6);
	if (class == CLASS_UDP)
		return may_deliver(skb, &packet->tuple, packet->v6, packet->sport);
	/* There is no looking up a socket of these: to a slice's port, or an answer from one. */
	return (owner != OWNER_NOBODY && owner != OWNER_NODE) || source_owner == capsule->uid;
}

/* Every packet of a capsule's socket, before it leaves: whose port it is from, and where it goes. */
SECTION("cgroup_skb/egress")
int plab_egress(struct __sk_buff *skb)
{
	struct capsule *capsule = capsule_of(skb_cgroup_id(skb));
	struct node *node = this_node();
	struct packet packet = {};
	__u32 source_owner;
	__u32 offset;
	int class;

	if (!capsule || !node)
		return REFUSE;
	if (capsule->classid)
		skb->priority = capsule->classid;
	if ((capsule->flags & CAPSULE_RAW) && !may_leave_raw(skb, capsule))
		goto other;
	if (skb->protocol == htons(ETHERTYPE_IP)) {
		__u32 addresses[2];
		__u8 first, protocol;

		if (skb_load_bytes(skb, 0, &first, 1) || skb_load_bytes(skb, 9, &protocol, 1) ||
		    skb_load_bytes(skb, 12, addresses, sizeof(addresses)))
			goto other;
		/* With options: a source route, for instance. */
		if (first != 0x45)
			goto other;
		if (opted_out4(node, addresses[1]))
			goto opt_out;
		packet.protocol = protocol;
		packet.tuple.ipv4.saddr = addresses[0];
		packet.tuple.ipv4.daddr = addresses[1];
		packet.v6 = 0;
		offset = 20;
	} else if (skb->protocol == htons(ETHERTYPE_IPV6)) {
		__u32 addresses[8];
		__u8 next;

		if (skb_load_bytes(skb, 6, &next, 1) || skb_load_bytes(skb, 8, addresses, sizeof(addresses)))
			goto other;
		if (opted_out6(node, &addresses[4]))
			goto opt_out;
		packet.protocol = next;
		__builtin_memcpy(packet.tuple.ipv6.saddr, addresses, sizeof(addresses));
		packet.v6 = 1;
		offset = 40;
	} else {
		goto other;
	}
	if (packet.protocol == PROTO_ICMP || packet.protocol == PROTO_ICMPV6) {
		const __u32 *remote = packet.v6 ? packet.tuple.ipv6.daddr : &packet.tuple.ipv4.daddr;

		if (may_ping(skb, capsule, packet.protocol, packet.v6, remote, offset))
			return PASS;
		goto other;
	}
	class = class_of(packet.protocol);
	/* Neither does an extension header pass: the kernel lets none but a routing header be sent without privilege. */
	if (class < 0 || read_transport(skb, &packet, offset))
		goto other;
	source_owner = owner_of(class, ntohs(packet.sport));
	/* A socket may still be bound to a port that was withdrawn. It is of no more use than one that is another's. */
	if (source_owner != capsule->uid &&
	    (source_owner != OWNER_NOBODY || !is_ephemeral(node, ntohs(packet.sport)))) {
		COUNT_REFUSAL(capsule, port);
		return REFUSE;
	}
	if (skb->ifindex != LOOPBACK)
		return PASS;
	if (!packet.v6) {
		packet.tuple.ipv4.sport = class == CLASS_TCP ? 0 : packet.sport;
		packet.tuple.ipv4.dport = packet.dport;
	} else {
		packet.tuple.ipv6.sport = class == CLASS_TCP ? 0 : packet.sport;
		packet.tuple.ipv6.dport = packet.dport;
	}
	if (may_stay(skb, capsule, &packet, class, source_owner))
		return PASS;
	COUNT_REFUSAL(capsule, local);
	return REFUSE;
opt_out:
	COUNT_REFUSAL(capsule, opt_out);
	return REFUSE;
other:
	COUNT_REFUSAL(capsule, other);
	return REFUSE;
}

/* Every packet before a capsule's socket gets it. */
SECTION("cgroup_skb/ingress")
int plab_ingress(struct __sk_buff *skb)
{
	struct capsule *capsule = capsule_of(skb_cgroup_id(skb));

	if (!capsule)
		return REFUSE;
	if ((capsule->flags & CAPSULE_RAW) && !may_hear(skb, capsule))
		return REFUSE;
	return PASS;
}

SECTION("license") const char licence[] = "Dual BSD/GPL";
