//! Repairs the checksums of damaged files, so that the damage gets past them to the code behind.
//!
//! Only checksums are changed, never a length, and a file without any comes back as it was.

/// The codes that NUT's header packets start with.
const NUT_STARTCODES: [u64; 5] =
    [0x4e4d_7a56_1f5f_04ad, 0x4e53_1140_5bf2_f9db, 0x4e4b_e4ad_eeca_4569, 0x4e58_dd67_2f23_e64e, 0x4e49_ab68_b596_ba78];

/// A NUT file with the checksums of all its header packets repaired. Those of frames are left.
pub(crate) fn with_nut_checksums(data: &[u8]) -> Vec<u8> {
    let mut file = data.to_vec();
    for at in 0..file.len() {
        if NUT_STARTCODES.iter().any(|code| file[at..].starts_with(&code.to_be_bytes())) {
            repair_nut_packet(&mut file[at..]);
        }
    }
    file
}

/// Start code, length, perhaps a checksum of the two, content and its checksum; nothing happens where one is cut off.
fn repair_nut_packet(packet: &mut [u8]) -> Option<()> {
    let (mut length, mut at) = (0_usize, 8);
    loop {
        let byte = *packet.get(at)?;
        at += 1;
        length = length.checked_mul(128)? + usize::from(byte & 0x7f);
        if byte < 0x80 {
            break;
        }
    }
    if length > 4096 {
        let sum = nut_sum(packet.get(..at)?);
        packet.get_mut(at..at + 4)?.copy_from_slice(&sum.to_be_bytes());
        at += 4;
    }
    let end = at.checked_add(length)?;
    let (content, sum) = packet.get_mut(at..end)?.split_last_chunk_mut::<4>()?;
    *sum = nut_sum(content).to_be_bytes();
    Some(())
}

/// CRC-32, most significant bit first, from 0, not inverted.
fn nut_sum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte) << 24, |sum, _| sum << 1 ^ if sum >> 31 == 1 { 0x04c1_1db7 } else { 0 })
    })
}

/// A PNG image with the checksums of its chunks repaired; anything else as it came.
pub(crate) fn with_png_checksums(data: &[u8]) -> Vec<u8> {
    let mut file = data.to_vec();
    if file.starts_with(b"\x89PNG") {
        let mut at = 8;
        while let Some(next) = repair_png_chunk(&mut file, at) {
            at = next;
        }
    }
    file
}

/// Length, type, content and the checksum of type and content; gives where the next chunk starts.
fn repair_png_chunk(file: &mut [u8], at: usize) -> Option<usize> {
    let length = u32::from_be_bytes(*file.get(at..)?.first_chunk()?);
    let end = at.checked_add(8)?.checked_add(usize::try_from(length).ok()?)?;
    let sum = png_sum(file.get(at + 4..end)?);
    file.get_mut(end..end.checked_add(4)?)?.copy_from_slice(&sum.to_be_bytes());
    Some(end + 4)
}

/// CRC-32, least significant bit first, inverted before and after.
fn png_sum(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| sum >> 1 ^ if sum & 1 == 1 { 0xedb8_8320 } else { 0 })
    })
}
