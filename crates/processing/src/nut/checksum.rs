//! The container's checksum: CRC-32 with the polynomial 0x04C11DB7, most significant bit first, from 0, not inverted.

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0_usize;
    while index < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "below 256")]
        let mut value = (index as u32) << 24;
        let mut bit = 0;
        while bit < 8 {
            value = if value >> 31 == 1 { (value << 1) ^ 0x04c1_1db7 } else { value << 1 };
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
};

/// The checksum of `bytes`, as it is written after them, most significant byte first.
pub(super) fn of(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |sum, byte| (sum << 8) ^ TABLE[(sum >> 24) as usize ^ usize::from(*byte)])
}

/// Whether the last four bytes are the checksum of those before.
pub(super) fn holds(bytes: &[u8]) -> bool {
    bytes.split_last_chunk::<4>().is_some_and(|(content, sum)| of(content) == u32::from_be_bytes(*sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_known_function() {
        assert_eq!(of(b""), 0);
        assert_eq!(of(&[0x80]), 0x690c_e0ee);
        assert_eq!(of(&[1]), 0x04c1_1db7);
        let mut bytes = b"sensorium".to_vec();
        bytes.extend(of(b"sensorium").to_be_bytes());
        assert!(holds(&bytes));
        assert_eq!(of(&bytes), 0);
        bytes[3] ^= 1;
        assert!(!holds(&bytes));
        assert!(!holds(b"abc"));
    }
}
