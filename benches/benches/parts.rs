//! Each part of the hot path by the clock, over in-memory pipes at the end. What a part is and reads is said in
//! `benches/src/parts`, which `counts` shares; its counts are the better figure for anything but memory that is far away.

use criterion::Throughput;
use router_benches::parts;

fn main() {
    let mut criterion = router_benches::criterion();
    for part in parts::all() {
        let (group, what) = part.name.split_once('/').unwrap_or((&part.name, ""));
        let mut group = criterion.benchmark_group(group);
        if let Some(bytes) = part.bytes {
            group.throughput(Throughput::Bytes(bytes as u64));
        }
        // Made once, and only if this part is wanted.
        let mut round = None;
        group.bench_function(what, |bencher| {
            let round = round.get_or_insert_with(|| part.start());
            bencher.iter(round);
        });
        group.finish();
    }
    criterion.final_summary();
}
