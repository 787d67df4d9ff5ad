//! A rank that is not there: never came, died or hangs. The others end with an error, soon, and so does their program.

use std::time::{Duration, Instant};

use crate::rank::{PATIENT, Process, SHORT, free_port, join, launch, process, said};

/// Beyond the time-out: for a process to start and end on a machine that is busy.
const SLACK: Duration = Duration::from_secs(40);

#[test]
fn a_group_that_not_all_ranks_join_is_an_error_for_those_that_came() {
    // Without rank 0, nobody serves the place where ranks meet; without the last, the others wait for it there.
    for (rank, world_size) in [(1, 2), (0, 2), (1, 3)] {
        let (begin, port) = (Instant::now(), free_port());
        let error = join(&launch(rank, world_size, port), SHORT).unwrap_err().to_string();
        assert!(error.starts_with("joining the group: no answer within 3 s: is every rank started"), "{error}");
        assert!(begin.elapsed() < 2 * SHORT + Duration::from_secs(1), "{:?}", begin.elapsed());
    }
}

/// Three ranks as processes that wait for rank 1, to which something is done; what the other two say.
fn others_when(do_to: fn(&Process)) -> [String; 2] {
    let port = free_port();
    let mut ranks: Vec<Process> = (0..3).map(|rank| Process::start(process("waits", rank, 3, port))).collect();
    ranks.iter_mut().for_each(|rank| rank.wait_for("joined"));
    do_to(&ranks[1]);
    let begin = Instant::now();
    let dead = ranks.remove(1);
    let others = ranks.into_iter().map(|rank| {
        let output = rank.output(SHORT + SLACK);
        assert_eq!(output.status.code(), Some(3), "{}", said(&output));
        said(&output)
    });
    let others: Vec<String> = others.collect();
    assert!(begin.elapsed() < SHORT + SLACK);
    drop(dead);
    others.try_into().unwrap()
}

#[test]
fn a_rank_that_dies_ends_the_others() {
    for others in others_when(|rank| rank.signal("KILL")) {
        assert!(others.contains("error: all-reduce: another rank has left or died"), "{others}");
    }
}

#[test]
fn a_rank_that_hangs_ends_the_others() {
    for others in others_when(|rank| rank.signal("STOP")) {
        // The first to give up leaves, which the other may notice before its own time is up.
        assert!(others.contains("no answer within 3 s") || others.contains("has left or died"), "{others}");
    }
}

#[test]
fn ranks_that_are_all_there_end_well() {
    let port = free_port();
    let ranks: Vec<Process> = (0..2).map(|rank| Process::start(process("meets", rank, 2, port))).collect();
    for rank in ranks {
        let output = rank.output(PATIENT);
        assert!(output.status.success(), "{}", said(&output));
        assert!(said(&output).contains("sum 3 gathered [0.5, 1.5] of 2"), "{}", said(&output));
    }
}
