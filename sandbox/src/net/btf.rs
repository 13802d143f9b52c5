//! What the kernel wants to know of the types in a map that it keeps with sockets: their sizes, as BTF.
//!
//! See `Documentation/bpf/btf.rst` in the kernel's source. aya makes BTF of an object's own types only.

/// The IDs of the types in [`of_storage`]. A type's is its place, from 1 on.
pub(super) const KEY: u32 = 1;
pub(super) const VALUE: u32 = 3;

const WORD: u32 = 2;

/// A 32-bit key, and a value of `size` bytes, a multiple of 8: an array of words.
pub(super) fn of_storage(size: u32) -> Vec<u8> {
    const KIND_INT: u32 = 1 << 24;
    const KIND_ARRAY: u32 = 3 << 24;
    let types = [
        // No name, what it is, bytes; and bits.
        [0, KIND_INT, 4, 32].as_slice(),
        &[0, KIND_INT, 8, 64],
        // No name, what it is, unused; the type of its elements, of its index, and how many.
        &[0, KIND_ARRAY, 0, WORD, KEY, size / 8],
    ]
    .concat();
    let length = u32::try_from(types.len() * 4).unwrap_or(u32::MAX);
    // The magic number, version and flags; the header's length; where the types are, and after them the names: one, of
    // none.
    let header = [0x0001_eb9f, 24, 0, length, length, 1];
    header.into_iter().chain(types).flat_map(u32::to_ne_bytes).chain([0]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_it_says() {
        let bytes = of_storage(80);
        let word = |at: usize| u32::from_ne_bytes(bytes[at * 4..at * 4 + 4].try_into().expect("four bytes"));
        assert_eq!((bytes[0], bytes[1], bytes[2]), (0x9f, 0xeb, 1));
        assert_eq!(bytes.len(), 24 + usize::try_from(word(3) + word(5)).expect("small"));
        assert_eq!(word(6 + 4 + 4 + 5), 10, "words of 8 bytes");
    }
}
