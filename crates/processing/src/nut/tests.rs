use proptest::prelude::*;

use super::*;

fn read(file: &[u8], piece: usize) -> Result<Vec<NutItem>, NutError> {
    read_with(NutDemuxer::default(), file, piece)
}

fn read_with(mut demuxer: NutDemuxer, file: &[u8], piece: usize) -> Result<Vec<NutItem>, NutError> {
    let mut items = Vec::new();
    for bytes in file.chunks(piece) {
        demuxer.push(bytes);
        while let Some(item) = demuxer.next()? {
            items.push(item);
        }
    }
    demuxer.finish().map(|()| items)
}

fn packets(items: &[NutItem]) -> Vec<(u32, i64, i64, bool, Vec<u8>)> {
    let packet = |item: &NutItem| match item {
        NutItem::Packet(packet) => {
            let Packet { stream, pts, pts_ns, key, payload } = packet.clone();
            Some((stream, pts, pts_ns, key, payload))
        }
        NutItem::Stream(_) => None,
    };
    items.iter().filter_map(packet).collect()
}

#[test]
fn every_way_to_code_a_frame() {
    let items = read(&fixture::file(), usize::MAX).unwrap();
    let streams: Vec<_> = items.iter().filter(|item| matches!(item, NutItem::Stream(_))).collect();
    let video = StreamHeader {
        index: 0,
        kind: StreamKind::Video { width: 4, height: 2 },
        codec: Codec::Rgb24,
        fourcc: *b"RGB\x18",
        time_base: (1, 1_000),
    };
    let audio = StreamHeader {
        index: 1,
        kind: StreamKind::Audio { sample_rate_hz: 16_000, channels: 2 },
        codec: Codec::PcmI16,
        fourcc: *b"PSD\x10",
        time_base: (1, 16_000),
    };
    assert_eq!(streams, [&NutItem::Stream(video), &NutItem::Stream(audio)]);
    assert_eq!(
        packets(&items),
        [
            (0, -3, -3_000_000, true, vec![0x11; 24]),
            (1, 4, 250_000, true, vec![0x22; 8]),
            (0, 1, 1_000_000, true, b"abcde".to_vec()),
            (0, 1_002, 1_002_000_000, true, vec![0x33; 3]),
            (1, 17_000, 1_062_500_000, true, vec![0x44; 2]),
            (0, 1_002, 1_002_000_000, false, b"abcUU".to_vec()),
            (1, 17_104, 1_069_000_000, true, vec![0x66; 8]),
        ]
    );
}

#[test]
fn pieces_of_any_size_give_the_same() {
    let file = fixture::file();
    let whole = read(&file, usize::MAX).unwrap();
    for piece in 1..70 {
        assert_eq!(read(&file, piece).unwrap(), whole, "pieces of {piece} bytes");
    }
    // Several pieces before an item is taken.
    let mut demuxer = NutDemuxer::default();
    file.chunks(13).for_each(|bytes| demuxer.push(bytes));
    let items: Vec<_> = std::iter::from_fn(|| demuxer.next().unwrap()).collect();
    assert_eq!(items, whole);
    demuxer.finish().unwrap();
}

#[test]
fn a_file_cut_at_any_byte_gives_what_was_whole_and_no_more() {
    let file = fixture::file();
    let whole = read(&file, usize::MAX).unwrap();
    let mut ends = 0;
    for length in 0..file.len() {
        let mut demuxer = NutDemuxer::default();
        demuxer.push(&file[..length]);
        let items: Vec<_> = std::iter::from_fn(|| demuxer.next().unwrap()).collect();
        assert!(whole.starts_with(&items), "{length} of {} bytes", file.len());
        match demuxer.finish() {
            Ok(()) => ends += 1,
            Err(error) => assert_eq!(error, NutError::Truncated { bytes: length as u64 }),
        }
    }
    // After each of the 9 headers and the 7 frames but the last, and the empty one.
    assert_eq!(ends, 16);
}

#[test]
fn damage_to_headers_is_noticed() {
    let file = fixture::file();
    // Everything up to the first frame but the file's first bytes.
    let headers = [fixture::main(), fixture::packet(fixture::INFO, &[7; 5_000]), fixture::video(4), fixture::audio()];
    let end = FILE_ID.len() + headers.concat().len() + fixture::syncpoint(0).len();
    for at in 0..end {
        let mut bytes = file.clone();
        bytes[at] ^= 0x10;
        assert!(read(&bytes, usize::MAX).is_err(), "byte {at}");
    }
}

#[test]
fn an_error_is_final_and_says_where() {
    let error = |bytes: &[u8]| {
        let mut demuxer = NutDemuxer::default();
        demuxer.push(bytes);
        let error = loop {
            match demuxer.next() {
                Ok(item) => assert!(item.is_some(), "no error"),
                Err(error) => break error,
            }
        };
        demuxer.push(&fixture::file());
        assert_eq!(demuxer.next(), Err(error.clone()));
        assert_eq!(demuxer.finish(), Err(error.clone()));
        error
    };
    let start = fixture::start();
    let lead = [start.clone(), fixture::main(), fixture::video(4)].concat();
    let at = lead.len() as u64;
    let after = |bytes: &[u8]| error(&[&lead[..], bytes].concat());
    assert_eq!(error(b"matroska"), NutError::NotNut(b"matroska".to_vec()));
    assert_eq!(error(&[&start[..], &fixture::video(4)].concat()), NutError::Order { at: 25 });
    assert_eq!(error(&[&start[..], &[3, 2, 0, 0, 0, 0]].concat()), NutError::Order { at: 25 });
    let version = fixture::packet(fixture::MAIN, &[9; 30]);
    assert_eq!(error(&[&start[..], &version].concat()), NutError::Version { at: 25, version: 9 });
    assert_eq!(after(&[2]), NutError::Order { at });
    assert!(matches!(after(&[0]), NutError::Malformed { .. }));
    assert_eq!(after(&fixture::video(5)), NutError::Changed { at, what: "a stream's header" });
    let mut damaged = fixture::audio();
    damaged[20] ^= 1;
    assert_eq!(after(&damaged), NutError::Checksum { at });
    let mut damaged = fixture::coded(1 | 32, &[9], &[0; 9]);
    damaged[2] ^= 1;
    assert_eq!(after(&damaged), NutError::Checksum { at });
    // 203 bytes need a checksum where syncpoints are at most 100 bytes apart; so does a jump of over 100 units.
    assert_eq!(after(&[3, 0, 20]), NutError::ChecksumMissing { at });
    assert_eq!(after(&[&[3][..], &fixture::unsigned(8 + 101), &[0]].concat()), NutError::ChecksumMissing { at });
    assert_eq!(after(&fixture::coded(1 | 256, &[], &[])), NutError::Unsupported { at, feature: "side data" });
    let long = fixture::coded(1 | 32, &[33 << 20], &[]);
    assert_eq!(after(&long), NutError::PacketTooLong { at, bytes: 33 << 20, bytes_max: 32 << 20 });
    let mut header = [&fixture::INFO.to_be_bytes()[..], &fixture::unsigned(2 << 20)].concat();
    header.extend(checksum::of(&header).to_be_bytes());
    assert_eq!(after(&header), NutError::HeaderTooLong { at, bytes: 2 << 20 });
}

#[test]
fn packets_are_bounded_by_what_is_asked_for() {
    let file = fixture::file();
    assert!(read_with(NutDemuxer::new(24), &file, 50).is_ok());
    let error = read_with(NutDemuxer::new(23), &file, 50).unwrap_err();
    assert!(matches!(error, NutError::PacketTooLong { bytes: 24, bytes_max: 23, .. }), "{error}");
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), piece in 1_usize..50) {
        let _ = read(&bytes, piece);
        let _ = read(&[fixture::start(), bytes.clone()].concat(), piece);
        let headers = [fixture::start(), fixture::main(), fixture::video(4), fixture::audio()].concat();
        let _ = read(&[headers, bytes].concat(), piece);
    }

    #[test]
    fn arbitrary_headers_with_a_good_checksum_never_panic(
        startcode in prop_oneof![
            Just(fixture::MAIN), Just(fixture::STREAM), Just(fixture::SYNCPOINT), Just(fixture::INFO), any::<u64>(),
        ],
        main in prop_oneof![Just(vec![]), Just(fixture::main())],
        lead in proptest::sample::select(vec![vec![], vec![3, 1, 9, 1, 1, 9], vec![4, 0, 1, 9, 1, 1, 9], vec![1, 1, 0, 0]]),
        content in proptest::collection::vec(any::<u8>(), 0..300),
        frames in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let header = fixture::packet(startcode, &[lead, content].concat());
        let _ = read(&[fixture::start(), main, header, fixture::video(4), frames].concat(), usize::MAX);
    }

    #[test]
    fn damaged_files_never_panic_and_keep_their_bounds(
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut file = fixture::file();
        // The long info packet only makes most damage hit it.
        let (from, to) = (FILE_ID.len() + fixture::main().len(), fixture::packet(fixture::INFO, &[7; 5_000]).len());
        file.drain(from..from + to);
        for (at, value) in damage {
            let at = at.index(file.len());
            file[at] = value;
        }
        if let Ok(items) = read_with(NutDemuxer::new(100), &file, 64) {
            prop_assert!(packets(&items).iter().all(|packet| packet.4.len() <= 103));
        }
    }
}
