/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/* What matters of a packet: between whom, by which protocol. */
#ifndef PLAB_PACKET_H
#define PLAB_PACKET_H

#include "helpers.h"

#define PROTO_ICMP 1
#define PROTO_TCP 6
#define PROTO_UDP 17
#define PROTO_ICMPV6 58
#define PROTO_SCTP 132
#define PROTO_UDPLITE 136
#define PROTO_RAW 255
#define PROTO_MPTCP 262

#define AF_INET 2
#define AF_INET6 10

#define SOCK_STREAM 1
#define SOCK_DGRAM 2
#define SOCK_RAW 3
#define SOCK_SEQPACKET 5

#define ETHERTYPE_IP 0x0800
#define ETHERTYPE_IPV6 0x86dd

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

/* What tells flows apart. Addresses are as in a packet, v4 in the first word; ports are in the machine's order. */
struct flow_key {
	__u64 cgroup;
	/* The capsule's. */
	__u32 local[4];
	__u32 remote[4];
	/* For ICMP the echo's identifier, and `type << 8 | code`. */
	__u16 local_port;
	__u16 remote_port;
	__u8 protocol;
	/* 4 or 6. */
	__u8 family;
	__u16 unused;
};

/* An address as a map's key has it: v4 in v6 clothes. */
INLINE void clothe(__u32 to[4], int v6, const __u32 *address)
{
	to[0] = v6 ? address[0] : 0;
	to[1] = v6 ? address[1] : 0;
	to[2] = v6 ? address[2] : 0xffff0000;
	to[3] = v6 ? address[3] : address[0];
}

/* A packet's headers. */
struct packet {
	struct flow_key key;
	/* TCP's flags. */
	__u8 tcp;
	/*
	 * The ports were read; the protocol is one whose transport header begins with them, and nothing unusual is
	 * before it.
	 */
	__u8 plain;
};

enum way { OUT, IN };

/* Copies the `size` first bytes, a constant. Mostly they lie in one piece, where no helper is needed. */
#define LOAD_HEAD(skb, to, size)                                                               \
	({                                                                                     \
		void *begin = (void *)(long)(skb)->data, *end = (void *)(long)(skb)->data_end; \
		int failed = 0;                                                                \
		if (begin + (size) <= end)                                                     \
			__builtin_memcpy(to, begin, size);                                     \
		else                                                                           \
			failed = skb_load_bytes(skb, 0, to, size) != 0;                        \
		failed;                                                                        \
	})

/* The first bytes of a transport header; every protocol has so many. */
struct transport {
	__be16 source;
	__be16 destination;
	__be16 third;
	__be16 fourth;
};

struct head4 {
	__u8 first;
	__u8 tos;
	__be16 length;
	__be32 fragment;
	__u8 ttl;
	__u8 protocol;
	__be16 sum;
	__be32 source;
	__be32 destination;
	struct transport transport;
};

struct head6 {
	__be32 first;
	__be16 length;
	__u8 next;
	__u8 hops;
	__u32 source[4];
	__u32 destination[4];
	struct transport transport;
};

/* Fills in what the protocol calls ports, from the transport header at `offset`. */
INLINE void read_transport(struct __sk_buff *skb, struct packet *packet, const struct transport *transport,
			   enum way way, __u32 offset)
{
	struct flow_key *key = &packet->key;
	__u8 type, code;

	switch (key->protocol) {
	case PROTO_TCP:
	case PROTO_UDP:
	case PROTO_UDPLITE:
	case PROTO_SCTP:
		key->local_port = ntohs(way == OUT ? transport->source : transport->destination);
		key->remote_port = ntohs(way == OUT ? transport->destination : transport->source);
		packet->plain = 1;
		if (key->protocol == PROTO_TCP) {
			__u8 *flags = (void *)(long)skb->data + offset + 13;

			if ((void *)(flags + 1) <= (void *)(long)skb->data_end)
				packet->tcp = *flags;
			else if (skb_load_bytes(skb, offset + 13, &packet->tcp, 1))
				packet->plain = 0;
		}
		break;
	case PROTO_ICMP:
	case PROTO_ICMPV6:
		packet->plain = 1;
		type = ntohs(transport->source) >> 8;
		code = ntohs(transport->source) & 0xff;
		/* An echo's reply is of the request's flow. */
		if (key->protocol == PROTO_ICMP && type == 0)
			type = 8;
		if (key->protocol == PROTO_ICMPV6 && type == 129)
			type = 128;
		key->remote_port = (__u16)type << 8 | code;
		if (type == (key->protocol == PROTO_ICMP ? 8 : 128))
			key->local_port = ntohs(transport->third);
	}
}

/* Reads a packet that a capsule sends or gets, but for whose it is; 0 if at least its addresses are there. */
INLINE int read_packet(struct __sk_buff *skb, struct packet *packet, enum way way)
{
	struct flow_key *key = &packet->key;

	if (skb->protocol == htons(ETHERTYPE_IP)) {
		struct head4 head;

		if (LOAD_HEAD(skb, &head, sizeof(head)))
			return -1;
		key->family = 4;
		key->protocol = head.protocol;
		key->local[0] = way == OUT ? head.source : head.destination;
		key->remote[0] = way == OUT ? head.destination : head.source;
		/* With options: a source route, for instance. */
		if (head.first == 0x45)
			read_transport(skb, packet, &head.transport, way, 20);
		return 0;
	}
	if (skb->protocol == htons(ETHERTYPE_IPV6)) {
		struct head6 head;

		if (LOAD_HEAD(skb, &head, sizeof(head)))
			return -1;
		key->family = 6;
		key->protocol = head.next;
		__builtin_memcpy(key->local, way == OUT ? head.source : head.destination, 16);
		__builtin_memcpy(key->remote, way == OUT ? head.destination : head.source, 16);
		read_transport(skb, packet, &head.transport, way, 40);
		return 0;
	}
	return -1;
}

#endif
