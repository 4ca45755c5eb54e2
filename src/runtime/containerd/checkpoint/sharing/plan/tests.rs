use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;

const K: u64 = 1024;
const M: u64 = K * K;

/// A mapping: the numbers of its pages, its protection, flags, status and advice.
type Mapping = (Range<u64>, u64, u64, u64, u64);

const HEAP: (u64, u64, u64, u64) = (3, 0x22, 0x221, 0);

static EMPTY: LazyLock<(ShmemFiles, DiscardedRanges)> = LazyLock::new(Default::default);
/// The rules for a process without private shmem that discarded nothing.
static PLAIN: LazyLock<SharingRules<'static>> = LazyLock::new(|| SharingRules {
    shmem_files: &EMPTY.0,
    discarded: &EMPTY.1,
    reliance: ZeroReliance::Unfiltered,
});

fn with_private_shmem(shmem_files: &ShmemFiles) -> SharingRules<'_> {
    SharingRules { shmem_files, ..*PLAIN }
}

fn mapping(pages: Range<u64>, (protection, flags, status, advice): (u64, u64, u64, u64)) -> Mapping {
    (pages, protection, flags, status, advice)
}

fn image(records: Vec<ProtoMessage>) -> CriuImage {
    let mut image = CriuImage::read(&[0x19, 0x43, 0x56, 0x54, 0, 0, 0, 0]).unwrap();
    image.records = records;
    image
}

fn message(numbers: &[(u32, u64)]) -> ProtoMessage {
    let mut message = ProtoMessage::default();
    numbers.iter().for_each(|(number, value)| message.set_number(*number, *value));
    message
}

fn mm(mappings: &[Mapping]) -> CriuImage {
    let mut process = message(&[(1, 5), (12, 2)]);
    for (pages, protection, flags, status, advice) in mappings {
        let (start, end) = (pages.start * PAGE_SIZE, pages.end * PAGE_SIZE);
        let fields =
            [(1, start), (2, end), (3, 0), (4, 0), (5, *protection), (6, *flags), (7, *status), (8, 1)];
        let mut mapping = message(&fields);
        if *advice != 0 {
            mapping.set_number(9, *advice);
        }
        process.push_bytes(14, &mapping.write());
    }
    image(vec![process])
}

fn pagemap(runs: &[(u64, u64, u64)]) -> CriuImage {
    let head = message(&[(1, 7)]);
    let entry = |(page, count, flags): &(u64, u64, u64)| {
        message(&[(1, page * PAGE_SIZE), (2, 0), (4, *flags), (5, *count)])
    };
    image(std::iter::once(head).chain(runs.iter().map(entry)).collect())
}

/// The first page and the count of each entry of a pagemap.
fn entries(pagemap: &CriuImage) -> Vec<(u64, u64)> {
    let entries = pagemap.records.iter().skip(1);
    entries.map(|entry| (entry.need(1).unwrap() / PAGE_SIZE, entry.need(5).unwrap())).collect()
}

/// The offset, file, flags and status of each mapping.
fn mapped(mm: &CriuImage) -> Vec<[u64; 4]> {
    let mappings = mm.records[0].all_bytes(14).map(|bytes| ProtoMessage::read(bytes).unwrap());
    mappings.map(|mapping| [3, 4, 6, 7].map(|field| mapping.need(field).unwrap())).collect()
}

#[test]
fn the_pages_of_a_heap_go_to_the_file_and_those_beside_it_stay() {
    let library = mapping(10..20, (3, 2, 65, 0));
    let (mut mm, mut pagemap) = (
        mm(&[library, mapping(20..24, HEAP), mapping(30..40, HEAP)]),
        // A run in two mappings, one of zeros, one in the second heap.
        pagemap(&[(18, 4, 4), (22, 1, 0), (31, 2, 6)]),
    );
    let plan = plan_process(&mut mm, &mut pagemap, 6 * PAGE_SIZE, 9, &PLAIN).unwrap().unwrap();
    let second = 4 * PAGE_SIZE + GROWTH_GAP;
    assert_eq!(mapped(&mm), [[0, 0, 2, 65], [0, 9, 2, 65], [second, 9, 2, 65]]);
    assert_eq!(entries(&pagemap), [(18, 2)]);
    let kept = 0..2 * PAGE_SIZE;
    let expected = SharingPlan {
        kept: vec![kept],
        moved: vec![(2 * PAGE_SIZE..4 * PAGE_SIZE, 0), (4 * PAGE_SIZE..6 * PAGE_SIZE, second + PAGE_SIZE)],
        file_length: second + 10 * PAGE_SIZE + GROWTH_GAP,
        mapped: vec![0..4 * PAGE_SIZE, second..second + 10 * PAGE_SIZE],
        has_private_shmem: false,
    };
    assert_eq!(plan, expected);
    assert_eq!(plan.mapped_bytes(), 14 * PAGE_SIZE);
}

#[test]
fn data_of_a_library_is_shared_where_each_of_its_pages_was_dumped() {
    const DATA: (u64, u64, u64, u64) = (3, 2, 0x41, 0);
    let all = [
        mapping(1..3, DATA),
        mapping(3..5, (1, 2, 0x41, 0)),
        mapping(5..7, DATA),
        mapping(7..8, (5, 2, 0x41, 0)),
    ];
    let (mut mm, mut pagemap) = (mm(&all), pagemap(&[(1, 3, 4), (4, 2, 4), (7, 1, 4)]));
    let plan = plan_process(&mut mm, &mut pagemap, 6 * PAGE_SIZE, 9, &PLAIN).unwrap().unwrap();
    assert_eq!(mapped(&mm).iter().map(|mapping| mapping[1]).collect::<Vec<_>>(), [9, 9, 0, 0]);
    assert_eq!(entries(&pagemap), [(5, 1), (7, 1)]);
    assert_eq!(plan.moved.len(), 3);
}

#[test]
fn mappings_that_a_file_cannot_replace_stay() {
    for (what, kind) in [
        ("no access", (0, 0x22, 0x201, 0)),
        ("shared", (3, 1, 0x101, 0)),
        ("code", (7, 2, 0x41, 0)),
        ("a memfd", (3, 2, 0x4041, 0)),
        ("the stack, which grows downwards", (3, 0x122, 0x201, 0)),
        ("the vdso", (5, 0x22, 0x209, 0)),
        ("vvar", (1, 0x22, 0x1201, 0)),
        ("asynchronous I/O", (3, 0x22, 0x2201, 0)),
        ("a shadow stack", (3, 0x22, 0x8201, 0)),
        ("huge pages", (3, 0x4_0022, 0x201, 0)),
        ("locked", (3, 0x2022, 0x201, 0)),
        ("zero in a child", (3, 0x22, 0x201, 1 << 18)),
        ("an unknown status", (3, 0x22, 0x201 | 1 << 20, 0)),
    ] {
        let (mut mm, mut pagemap) = (mm(&[mapping(1..5, kind)]), pagemap(&[(1, 4, 4)]));
        let before = (mm.clone(), pagemap.clone());
        assert_eq!(plan_process(&mut mm, &mut pagemap, 4 * PAGE_SIZE, 9, &PLAIN), Ok(None), "{what}");
        assert!((mm, pagemap) == before, "{what}");
    }
}

#[test]
fn mappings_with_discarded_memory_stay() {
    let trace =
        format!("x-7 [000] ..... 0.9: sys_madvise(start: {:#x}, len_in: 0x1000, behavior: 4)", 7 * PAGE_SIZE);
    let discarded = DiscardedRanges::read(&trace).unwrap();
    let rules = SharingRules {
        shmem_files: &ShmemFiles::from([(0, 10)]),
        discarded: &discarded,
        reliance: ZeroReliance::Unfiltered,
    };
    let shmem = mapping(7..9, (3, 1, 0x4081, 0));
    let (mut mm, mut pagemap) =
        (mm(&[mapping(1..4, HEAP), mapping(5..8, HEAP), shmem]), pagemap(&[(1, 7, 4)]));
    plan_process(&mut mm, &mut pagemap, 7 * PAGE_SIZE, 9, &rules).unwrap().unwrap();
    assert_eq!(mapped(&mm), [[0, 9, 2, 0x41], [0, 0, 0x22, 0x221], [0, 0, 1, 0x4081]]);
    assert_eq!(entries(&pagemap), [(4, 4)]);
}

#[test]
fn a_mapping_with_guards_stays_and_so_does_one_without_dumped_pages() {
    let guard = mapping(3..4, (0, 0x22, 1 << 16, 0));
    let (mut mm, mut pagemap) =
        (mm(&[mapping(1..5, HEAP), mapping(6..9, HEAP), guard]), pagemap(&[(1, 2, 4)]));
    assert_eq!(plan_process(&mut mm, &mut pagemap, 2 * PAGE_SIZE, 9, &PLAIN), Ok(None));
}

#[test]
fn images_with_pages_elsewhere_or_inconsistent_ones_are_refused() {
    let heap = || mm(&[mapping(1..5, HEAP)]);
    let refused = |mut mm: CriuImage, mut pagemap: CriuImage, pages: u64| {
        plan_process(&mut mm, &mut pagemap, pages * PAGE_SIZE, 9, &PLAIN).unwrap_err()
    };
    assert_eq!(refused(heap(), pagemap(&[(1, 1, 5)]), 1), Refused::Elsewhere);
    assert_eq!(refused(heap(), pagemap(&[(1, 1, 2)]), 1), Refused::Elsewhere);
    let mut parent = pagemap(&[(1, 1, 4)]);
    parent.records[1].set_number(3, 1);
    assert_eq!(refused(heap(), parent, 1), Refused::Elsewhere);
    // More pages than are stored, fewer, not in order, beyond all addresses, mappings that overlap.
    assert_eq!(refused(heap(), pagemap(&[(1, 3, 4)]), 2), Refused::Inconsistent);
    assert_eq!(refused(heap(), pagemap(&[(1, 1, 4)]), 2), Refused::Inconsistent);
    assert_eq!(refused(heap(), pagemap(&[(2, 1, 4), (1, 1, 4)]), 2), Refused::Inconsistent);
    assert_eq!(refused(heap(), pagemap(&[(1, u64::MAX / PAGE_SIZE, 4)]), 2), Refused::Inconsistent);
    assert_eq!(refused(heap(), pagemap(&[(1, u64::MAX, 4)]), 2), Refused::Inconsistent);
    let twice = mm(&[mapping(1..5, HEAP), mapping(2..6, HEAP)]);
    assert_eq!(refused(twice, pagemap(&[(1, 4, 4)]), 4), Refused::Inconsistent);
    let endless = mm(&[mapping(1..1 << 51, HEAP), mapping(1 << 51..(1 << 52) - 1, HEAP)]);
    assert_eq!(refused(endless, pagemap(&[(1, 1, 4), (1 << 51, 1, 4)]), 2), Refused::Inconsistent);
    assert!(matches!(refused(image(Vec::new()), pagemap(&[]), 0), Refused::Malformed { .. }));
    let nothing = image(vec![message(&[(1, 1)]), message(&[])]);
    assert!(matches!(refused(heap(), nothing, 0), Refused::Malformed { .. }));
}

#[test]
fn the_page_counts_of_older_versions_of_criu_are_read_and_written() {
    let old = image(vec![message(&[(1, 7)]), message(&[(1, 0), (2, 3)])]);
    let (mut mm, mut pagemap) = (mm(&[mapping(1..2, HEAP)]), old);
    let plan = plan_process(&mut mm, &mut pagemap, 3 * PAGE_SIZE, 9, &PLAIN).unwrap().unwrap();
    assert_eq!(plan.kept, [0..PAGE_SIZE, 2 * PAGE_SIZE..3 * PAGE_SIZE]);
    let counts: Vec<_> =
        pagemap.records[1..].iter().map(|entry| (entry.need(1).unwrap(), entry.need(2).unwrap())).collect();
    assert_eq!(counts, [(0, 1), (2 * PAGE_SIZE, 1)]);
}

#[test]
fn shared_anonymous_memory_becomes_private_where_it_has_a_file() {
    let mut mm = mm(&[mapping(1..5, (3, 1, 0x4081, 0)), mapping(6..8, (3, 1, 0x81, 0))]);
    mm.records[0]
        .change_each(14, |mut mapping| {
            mapping.set_number(3, PAGE_SIZE);
            mapping.set_number(4, 3);
            Ok::<_, Malformed>(Some(mapping))
        })
        .unwrap();
    let none =
        plan_process(&mut mm, &mut pagemap(&[]), 0, 9, &with_private_shmem(&ShmemFiles::from([(4, 10)])));
    assert_eq!(none, Ok(None));
    let plan =
        plan_process(&mut mm, &mut pagemap(&[]), 0, 9, &with_private_shmem(&ShmemFiles::from([(3, 10)])))
            .unwrap()
            .unwrap();
    assert_eq!(plan, SharingPlan { has_private_shmem: true, ..SharingPlan::default() });
    // A shared mapping of a file is no anonymous memory.
    assert_eq!(mapped(&mm), [[PAGE_SIZE, 10, 2, 65], [PAGE_SIZE, 3, 1, 0x81]]);
}

#[test]
fn pages_of_shared_anonymous_memory_keep_their_offsets() {
    let moved = vec![(0..PAGE_SIZE, 0), (PAGE_SIZE..3 * PAGE_SIZE, 4 * PAGE_SIZE)];
    let mapped = std::iter::once(0..8 * PAGE_SIZE).collect();
    let expected =
        SharingPlan { moved, file_length: 8 * PAGE_SIZE + GROWTH_GAP, mapped, ..SharingPlan::default() };
    assert_eq!(expected.mapped_bytes(), 8 * PAGE_SIZE);
    assert_eq!(plan_shmem(&pagemap(&[(0, 1, 4), (4, 2, 4)]), 3 * PAGE_SIZE, 8 * PAGE_SIZE), Ok(expected));
    assert_eq!(plan_shmem(&pagemap(&[(7, 2, 4)]), 2 * PAGE_SIZE, 8 * PAGE_SIZE), Err(Refused::Inconsistent));
    assert_eq!(plan_shmem(&pagemap(&[]), 0, u64::MAX), Err(Refused::Inconsistent));
}

proptest! {
    #![proptest_config(crate::proptest_config())]

    /// Each page is stored once: in the image of the pages or at its offset in the file.
    #[test]
    fn no_page_is_lost_or_duplicated(
        mappings in prop::collection::vec((0_u64..4, 1_u64..9, any::<bool>()), 0..12),
        runs in prop::collection::vec((0_u64..3, 1_u64..9, any::<bool>()), 0..12),
    ) {
        let mut page = 1;
        let mut all = Vec::new();
        for (gap, length, shared) in mappings {
            let start = page + gap;
            page = start + length;
            all.push(mapping(start..page, if shared { HEAP } else { (3, 2, 65, 0) }));
        }
        let (mut page, mut listed, mut present) = (0, Vec::new(), Vec::new());
        for (gap, length, is_present) in runs {
            let start = page + gap;
            page = start + length;
            listed.push((start, length, if is_present { 4 } else { 0 }));
            present.extend((start..page).filter(|_| is_present));
        }
        let (mut mm, mut pagemap) = (mm(&all), pagemap(&listed));
        let Some(plan) = plan_process(&mut mm, &mut pagemap, present.len() as u64 * PAGE_SIZE, 9, &PLAIN).unwrap() else { return Ok(()) };

        let mut found = Vec::new();
        let kept: Vec<u64> = plan.kept.iter().flat_map(|kept| kept.clone().step_by(PAGE_SIZE as usize)).collect();
        let mut kept = kept.into_iter();
        for entry in &pagemap.records[1..] {
            let (first, count) = (entry.need(1).unwrap() / PAGE_SIZE, entry.need(5).unwrap());
            if entry.need(4).unwrap() & 4 != 0 {
                found.extend((first..first + count).map(|page| (kept.next().unwrap(), page)));
            }
        }
        prop_assert_eq!(kept.next(), None);
        for (from, to) in &plan.moved {
            for step in (0..from.end - from.start).step_by(PAGE_SIZE as usize) {
                let offset = to + step;
                let place = mm.records[0].all_bytes(14).map(|bytes| ProtoMessage::read(bytes).unwrap()).find_map(|mapping| {
                    let [start, end, at, file] = [1, 2, 3, 4].map(|field| mapping.need(field).unwrap());
                    (file == 9 && (at..at + (end - start)).contains(&offset)).then(|| start + (offset - at))
                });
                found.push((from.start + step, place.unwrap() / PAGE_SIZE));
                prop_assert!(offset + PAGE_SIZE + GROWTH_GAP <= plan.file_length);
            }
        }
        found.sort_unstable();
        let expected: Vec<_> = present.iter().enumerate().map(|(at, page)| (at as u64 * PAGE_SIZE, *page)).collect();
        prop_assert_eq!(found, expected);
        prop_assert!(plan.mapped_bytes() <= 200 * M);
    }

    #[test]
    fn no_content_of_an_image_panics(
        mappings in prop::collection::vec(prop::collection::vec((1_u32..11, any::<u64>()), 0..11), 0..6),
        runs in prop::collection::vec(prop::collection::vec((1_u32..6, any::<u64>()), 0..6), 0..6),
        pages in any::<u64>(),
    ) {
        let mut process = ProtoMessage::default();
        mappings.iter().for_each(|fields| process.push_bytes(14, &message(fields).write()));
        let mut mm = image(vec![process]);
        let mut pagemap = image(runs.iter().map(|fields| message(fields)).collect());
        let _ = plan_process(&mut mm, &mut pagemap, pages, 9, &PLAIN);
    }
}
