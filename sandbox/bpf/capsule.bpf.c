/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/*
 * What capsules may do on the network that all slices share.
 *
 * The programs are attached to the cgroup above every capsule's, so that a capsule is under them from its first
 * instruction to its last. The kernel runs them for sockets that were made below it: a socket that was handed to
 * somebody else is still its maker's. Where a process asks for something (bind, connect, a new socket), it is the
 * asking process's cgroup that says for whom; where a packet leaves, the socket's. So a socket that was handed on is
 * of use only where both may.
 *
 * Whatever is not known is refused: a cgroup without state, a protocol without ports, a header that is not
 * understood.
 */
#include "flow.h"
#include "helpers.h"
#include "known.h"
#include "local.h"
#include "options.h"
#include "packet.h"
#include "raw.h"
#include "state.h"

#define REFUSE 0
#define PASS 1
/*
 * See bind(2)'s EACCES and the kernel's BPF_RET_BIND_NO_CAP_NET_BIND_SERVICE: bit 1 says that no capability is
 * needed.
 */
#define PASS_PRIVILEGED 3

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
	if (ctx->type == SOCK_RAW) {
		if (may_make_raw(ctx, capsule) && count_raw(ctx, current_cgroup_id()))
			return PASS;
		goto refuse;
	}
	if (ctx->type != SOCK_STREAM && ctx->type != SOCK_DGRAM && ctx->type != SOCK_SEQPACKET)
		goto refuse;
	switch (ctx->protocol) {
	case PROTO_TCP:
		may_hold(ctx, capsule);
		return PASS;
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
	if (owner == capsule->uid || (owner == OWNER_NOBODY && (class != CLASS_TCP || hold(ctx, capsule->uid))))
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

/* A socket that is closed holds no port, and is no raw socket more. */
SECTION("cgroup/sock_release")
int plab_close(struct bpf_sock *ctx)
{
	let_go(ctx);
	uncount_raw(ctx);
	return PASS;
}

/* What was to be sent is the refused packet of a flow. */
INLINE void count_refused_call(struct bpf_sock_addr *ctx, struct capsule *capsule, struct flow_key *key)
{
	__u64 place = 0;

	key->protocol = ctx->protocol == PROTO_MPTCP ? PROTO_TCP : (__u8)ctx->protocol;
	key->local_port = (__u16)ctx->sk->src_port;
	key->remote_port = ntohs((__u16)ctx->user_port);
	count_flow(capsule, key, REFUSED, 1, 0, 0, &place);
}

/*
 * connect(2) is refused here so that it fails at once: a SYN that is dropped on its way out is sent again and again.
 * What holds is the check of the packet.
 */
INLINE int may_connect4(struct bpf_sock_addr *ctx, struct node *node, struct capsule *capsule, __u32 address)
{
	struct flow_key key = {
		.cgroup = current_cgroup_id(), .family = 4, .local = { ctx->sk->src_ip4 }, .remote = { address }
	};

	__u16 port = (__u16)ctx->user_port;
	struct bpf_sock_tuple tuple = {};

	if (opted_out4(node, address)) {
		COUNT_REFUSAL(capsule, opt_out);
		goto refuse;
	}
	if (class_of(ctx->protocol) != CLASS_TCP)
		return PASS;
	/* The unspecified address means loopback. */
	if (!address)
		address = 0x0100007f;
	if (!is_here(4, &address))
		return PASS;
	tuple.ipv4.daddr = address;
	tuple.ipv4.saddr = address;
	tuple.ipv4.dport = port;
	if (!is_the_nodes(ctx, node, &tuple, sizeof(tuple.ipv4), ntohs(port), unfound_at(4, &address)))
		return PASS;
	COUNT_REFUSAL(capsule, local);
refuse:
	count_refused_call(ctx, capsule, &key);
	return REFUSE;
}

SECTION("cgroup/connect4")
int plab_connect4(struct bpf_sock_addr *ctx)
{
	struct capsule *capsule = capsule_of(current_cgroup_id());
	struct node *node = this_node();

	if (!capsule || !node)
		return REFUSE;
	if (ctx->sk)
		let_go(ctx->sk);
	return may_connect4(ctx, node, capsule, ctx->user_ip4);
}

SECTION("cgroup/connect6")
int plab_connect6(struct bpf_sock_addr *ctx)
{
	struct capsule *capsule = capsule_of(current_cgroup_id());
	struct node *node = this_node();
	struct bpf_sock_tuple tuple = {};
	struct flow_key key = { .cgroup = current_cgroup_id(), .family = 6 };
	__u32 address[4];
	__u16 port = (__u16)ctx->user_port;

	if (!capsule || !node)
		return REFUSE;
	if (ctx->sk)
		let_go(ctx->sk);
	address[0] = ctx->user_ip6[0];
	address[1] = ctx->user_ip6[1];
	address[2] = ctx->user_ip6[2];
	address[3] = ctx->user_ip6[3];
	/* A v4 address in v6 clothes: what leaves is v4. */
	if (address[0] == 0 && address[1] == 0 && address[2] == 0xffff0000)
		return may_connect4(ctx, node, capsule, address[3]);
	__builtin_memcpy(key.remote, address, sizeof(address));
	if (opted_out6(node, address)) {
		COUNT_REFUSAL(capsule, opt_out);
		goto refuse;
	}
	if (class_of(ctx->protocol) != CLASS_TCP)
		return PASS;
	/* The unspecified address means ::1. */
	if (!(address[0] | address[1] | address[2] | address[3]))
		address[3] = 0x01000000;
	if (!is_here(6, address))
		return PASS;
	__builtin_memcpy(tuple.ipv6.daddr, address, sizeof(address));
	__builtin_memcpy(tuple.ipv6.saddr, address, sizeof(address));
	tuple.ipv6.dport = port;
	if (!is_the_nodes(ctx, node, &tuple, sizeof(tuple.ipv6), ntohs(port), unfound_at(6, address)))
		return PASS;
	COUNT_REFUSAL(capsule, local);
refuse:
	key.local[0] = ctx->sk->src_ip6[0];
	key.local[1] = ctx->sk->src_ip6[1];
	key.local[2] = ctx->sk->src_ip6[2];
	key.local[3] = ctx->sk->src_ip6[3];
	count_refused_call(ctx, capsule, &key);
	return REFUSE;
}

/* What a socket is set to. */
SECTION("cgroup/setsockopt")
int plab_setopt(struct bpf_sockopt *ctx)
{
	int level = CONTEXT_WORD(ctx, level), name = CONTEXT_WORD(ctx, optname);
	struct capsule *capsule = capsule_of(current_cgroup_id());
	int length;

	if (!capsule)
		return REFUSE;
	if (!may_set(capsule, level, name)) {
		COUNT_REFUSAL(capsule, other);
		return REFUSE;
	}
	/*
	 * The kernel is to take the caller's own data, all of it, and not the first page that was copied for this; or
	 * with -1 it is not asked. One store: the kernel takes no pointer into the context that was chosen between
	 * two.
	 */
	length = is_recverr(ctx, level, name) ? -1 : 0;
	asm volatile("" : "+r"(length));
	ctx->optlen = length;
	return PASS;
}

/* Whether a packet may leave: also others like it, or only this one because who gets it was looked up. */
enum may { MAY_NOT, MAY, MAY_NOW };

/* What stays on the machine. */
INLINE enum may may_stay(struct __sk_buff *skb, struct capsule *capsule, const struct packet *packet, int class,
		    __u32 source_owner, enum raw raw)
{
	const struct flow_key *key = &packet->key;
	struct bpf_sock_tuple tuple;
	enum unfound unfound;
	__u32 owner;

	/* The kernel made it for a connection; a raw socket's may be anything. */
	if (class == CLASS_TCP && raw != RAW && (packet->tcp & (TCP_SYN | TCP_ACK)) != TCP_SYN)
		return MAY;
	owner = owner_of(class, key->remote_port);
	if (owner == OWNER_NODE_OPEN)
		return MAY;
	/* Its own port: it is the slice's there, too, where sshd listens for it outside (ssh -R). */
	if (class == CLASS_TCP && owner == capsule->uid)
		return MAY;
	/*
	 * Only that slice's capsule can have it bound, or whoever the administrator has let listen on a slice's port.
	 */
	if (class == CLASS_UDP && owner != OWNER_NOBODY && owner != OWNER_NODE)
		return MAY;
	/* What binds a slice's port is the slice's. */
	unfound = owner != OWNER_NOBODY && owner != OWNER_NODE ? UNFOUND_MAY : unfound_at(key->family, key->remote);
	if (class == CLASS_TCP || class == CLASS_UDP) {
		if (key->family == 4) {
			tuple.ipv4.saddr = key->local[0];
			tuple.ipv4.daddr = key->remote[0];
			tuple.ipv4.sport = class == CLASS_TCP ? 0 : htons(key->local_port);
			tuple.ipv4.dport = htons(key->remote_port);
		} else {
			__builtin_memcpy(tuple.ipv6.saddr, key->local, 16);
			__builtin_memcpy(tuple.ipv6.daddr, key->remote, 16);
			tuple.ipv6.sport = class == CLASS_TCP ? 0 : htons(key->local_port);
			tuple.ipv6.dport = htons(key->remote_port);
		}
		if (class == CLASS_TCP && raw == RAW)
			return may_inject(skb, &tuple, key->family == 6, htons(key->local_port), unfound) ? MAY_NOW : MAY_NOT;
		if (class == CLASS_TCP)
			return may_open(skb, &tuple, key->family == 6, unfound) ? MAY_NOW : MAY_NOT;
		return may_deliver(skb, &tuple, key->family == 6, htons(key->local_port), unfound) ? MAY_NOW : MAY_NOT;
	}
	/* There is no looking up a socket of these: to a slice's port, or an answer from one. */
	return (owner != OWNER_NOBODY && owner != OWNER_NODE) || source_owner == capsule->uid ? MAY : MAY_NOT;
}

/* Whose port a packet is from, and where it goes. */
INLINE enum may may_leave(struct __sk_buff *skb, struct node *node, struct capsule *capsule,
			 const struct packet *packet)
{
	const struct flow_key *key = &packet->key;
	int class = class_of(key->protocol);
	enum raw raw;
	__u32 source_owner;
	enum may may = MAY;

	if (key->family == 4 ? opted_out4(node, key->remote[0]) : opted_out6(node, key->remote)) {
		COUNT_REFUSAL(capsule, opt_out);
		return MAY_NOT;
	}
	if ((raw = may_leave_raw(skb, capsule, key)) == RAW_REFUSED)
		goto other;
	/*
	 * With options; neither does an extension header pass: the kernel lets none but a routing header be sent
	 * without privilege.
	 */
	if (!packet->plain)
		goto other;
	if (key->protocol == PROTO_ICMP || key->protocol == PROTO_ICMPV6) {
		if (may_ping(skb, capsule, key))
			return MAY_NOW;
		goto other;
	}
	if (class < 0)
		goto other;
	source_owner = owner_of(class, key->local_port);
	/* A socket may still be bound to a port that was withdrawn. It is of no more use than one that is another's. */
	if ((source_owner != capsule->uid && (source_owner != OWNER_NOBODY || !is_ephemeral(node, key->local_port))) ||
	    (raw == RAW && has_port_of(skb, capsule, key) == HAS_NOT)) {
		COUNT_REFUSAL(capsule, port);
		return MAY_NOT;
	}
	/* Opened or accepted: whose connection it is, has the port. */
	if (class == CLASS_TCP && source_owner == OWNER_NOBODY && raw != RAW && (packet->tcp & TCP_SYN))
		contest(capsule->uid, key->family == 6, key->local_port);
	/* What stays goes through loopback, or through the device of its VRF. */
	if (skb->ifindex == LOOPBACK || is_here(key->family, key->remote))
		may = may_stay(skb, capsule, packet, class, source_owner, raw);
	if (may != MAY_NOT)
		return may;
	COUNT_REFUSAL(capsule, local);
	return MAY_NOT;
other:
	COUNT_REFUSAL(capsule, other);
	return MAY_NOT;
}

/* How many packets it is on the wire: what is sent and got may be a train of them. */
INLINE __u64 packets_of(struct __sk_buff *skb)
{
	return skb->gso_segs > 1 ? skb->gso_segs : 1;
}

/* Every packet of a capsule's socket, before it leaves. */
SECTION("cgroup_skb/egress")
int plab_egress(struct __sk_buff *skb)
{
	__u64 changes = changes_now(), place = 0, packets = packets_of(skb);
	struct packet packet = {};
	struct capsule *capsule;
	struct node *node;
	struct flow *flow;
	enum may may;
	int failed = read_packet(skb, &packet, OUT);

	if (!failed && as_before(skb, &packet, changes, SENT, packets))
		return PASS;
	forget(&packet);
	packet.key.cgroup = skb_cgroup_id(skb);
	capsule = capsule_of(packet.key.cgroup);
	node = this_node();
	if (!capsule || !node)
		return REFUSE;
	if (capsule->classid)
		skb->priority = capsule->classid;
	if (failed) {
		COUNT_REFUSAL(capsule, other);
		return REFUSE;
	}
	may = may_leave(skb, node, capsule, &packet);
	if (may == MAY_NOT) {
		count_flow(capsule, &packet.key, REFUSED, packets, skb->len, packet.tcp, &place);
		return REFUSE;
	}
	count_traffic(capsule->index, SENT, packets, skb->len);
	flow = count_flow(capsule, &packet.key, SENT, packets, skb->len, packet.tcp, &place);
	if (flow)
		keep(skb, &packet, capsule, changes, flow, place, may == MAY ? skb->ifindex : 0);
	return PASS;
}

/*
 * Every packet before a capsule's socket gets it. A cgroup without state gets nothing, as it may send nothing: a socket
 * that has outlived its capsule in somebody's hands is of no use there.
 */
SECTION("cgroup_skb/ingress")
int plab_ingress(struct __sk_buff *skb)
{
	__u64 changes = changes_now(), place = 0, packets = packets_of(skb);
	struct packet packet = {};
	struct capsule *capsule;
	enum has hears;
	struct flow *flow;
	int failed = read_packet(skb, &packet, IN);

	if (!failed && as_before(skb, &packet, changes, GOT, packets))
		return PASS;
	forget(&packet);
	packet.key.cgroup = skb_cgroup_id(skb);
	capsule = capsule_of(packet.key.cgroup);
	if (!capsule)
		return REFUSE;
	hears = may_hear(skb, capsule, &packet);
	if (hears == HAS_NOT)
		return REFUSE;
	if (hears == HAS_SOCKET)
		return PASS;
	count_traffic(capsule->index, GOT, packets, skb->len);
	/* What cannot be read has been accepted by the kernel, which knows more. */
	if (failed)
		return PASS;
	flow = count_flow(capsule, &packet.key, GOT, packets, skb->len, packet.tcp, &place);
	if (flow)
		keep(skb, &packet, capsule, changes, flow, place, 0);
	return PASS;
}

SECTION("license") const char licence[] = "Dual BSD/GPL";
