/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */
/* The kernel's helper functions that these programs call, by their numbers in <linux/bpf.h>. See bpf-helpers(7). */
#ifndef PLAB_HELPERS_H
#define PLAB_HELPERS_H

#include <linux/bpf.h>

#define SECTION(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))

#define htons(value) __builtin_bswap16(value)
#define ntohs(value) __builtin_bswap16(value)

static void *(*map_lookup)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*map_update)(void *map, const void *key, const void *value, __u64 flags) =
	(void *)BPF_FUNC_map_update_elem;
static long (*map_delete)(void *map, const void *key) = (void *)BPF_FUNC_map_delete_elem;
static __u64 (*boot_ns)(void) = (void *)BPF_FUNC_ktime_get_boot_ns;
static __u64 (*coarse_ns)(void) = (void *)BPF_FUNC_ktime_get_coarse_ns;
static __u64 (*current_cgroup_id)(void) = (void *)BPF_FUNC_get_current_cgroup_id;
static __u64 (*skb_cgroup_id)(struct __sk_buff *skb) = (void *)BPF_FUNC_skb_cgroup_id;
static __u64 (*sk_cgroup_id)(struct bpf_sock *sk) = (void *)BPF_FUNC_sk_cgroup_id;
static struct bpf_sock *(*sk_lookup_tcp)(void *ctx, struct bpf_sock_tuple *tuple, __u32 size, __u64 netns,
                                         __u64 flags) = (void *)BPF_FUNC_sk_lookup_tcp;
static struct bpf_sock *(*sk_lookup_udp)(void *ctx, struct bpf_sock_tuple *tuple, __u32 size, __u64 netns,
                                         __u64 flags) = (void *)BPF_FUNC_sk_lookup_udp;
/* Also one in TIME_WAIT: a `struct bpf_sock` of which only the first fields may be read. */
static struct bpf_sock *(*skc_lookup_tcp)(void *ctx, struct bpf_sock_tuple *tuple, __u32 size, __u64 netns,
                                          __u64 flags) = (void *)BPF_FUNC_skc_lookup_tcp;
static struct bpf_sock *(*sk_fullsock)(struct bpf_sock *sk) = (void *)BPF_FUNC_sk_fullsock;
static long (*sk_release)(struct bpf_sock *sk) = (void *)BPF_FUNC_sk_release;
static void *(*sk_storage_get)(void *map, void *sk, void *value, __u64 flags) = (void *)BPF_FUNC_sk_storage_get;
static long (*skb_load_bytes)(const void *skb, __u32 offset, void *to, __u32 len) = (void *)BPF_FUNC_skb_load_bytes;

/*
 * Reads a word of a program's context. The kernel takes no pointer into it that was computed, which the compiler
 * would do to use it twice.
 */
#define CONTEXT_WORD(ctx, field)                                                                      \
	({                                                                                            \
		__u64 word;                                                                           \
		asm volatile("%0 = *(u32 *)(%1 + %2)"                                                 \
			     : "=r"(word)                                                             \
			     : "r"(ctx), "i"(__builtin_offsetof(__typeof__(*(ctx)), field)));         \
		(__u32)word;                                                                          \
	})

/* How the loader reads a map's description. */
struct bpf_map_def {
	__u32 type;
	__u32 key_size;
	__u32 value_size;
	__u32 max_entries;
	__u32 map_flags;
};

#endif
