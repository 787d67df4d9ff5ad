//! Ranks that never join, die or hang. The other ranks soon get an error, and their programs end.

use std::time::{Duration, Instant};

use patchmix::distributed::Launch;

use crate::rank::{PATIENT, Process, SHORT, free_port, join, launch, process, text};

/// Time beyond the timeout for a process to start and end on a busy machine.
const SLACK: Duration = Duration::from_secs(40);

#[test]
fn a_missing_rank_is_an_error_for_the_others() {
    // Without rank 0, nobody hosts the store. Without the last rank, the others wait for it in the store.
    for (rank, world_size) in [(1, 2), (0, 2), (1, 3)] {
        let (start, port) = (Instant::now(), free_port());
        let error = join(&launch(rank, world_size, port), SHORT).unwrap_err().to_string();
        assert!(error.starts_with("joining the group: no answer within 3 s: is every rank started"), "{error}");
        assert!(start.elapsed() < 2 * SHORT + Duration::from_secs(1), "{:?}", start.elapsed());
    }
}

/// Starts three processes that wait for rank 1, does something to rank 1, and returns the outputs of the other two.
fn outputs_after(action: fn(&Process)) -> [String; 2] {
    let port = free_port();
    let mut ranks: Vec<Process> = (0..3).map(|rank| Process::start(process("waits", rank, 3, port))).collect();
    ranks.iter_mut().for_each(|rank| rank.wait_for("joined"));
    action(&ranks[1]);
    let start = Instant::now();
    let dead = ranks.remove(1);
    let outputs = ranks.into_iter().map(|rank| {
        let output = rank.output(SHORT + SLACK);
        assert_eq!(output.status.code(), Some(3), "{}", text(&output));
        text(&output)
    });
    let outputs: Vec<String> = outputs.collect();
    assert!(start.elapsed() < SHORT + SLACK);
    drop(dead);
    outputs.try_into().unwrap()
}

#[test]
fn a_dead_rank_ends_the_others() {
    for output in outputs_after(|rank| rank.signal("KILL")) {
        assert!(output.contains("error: all-reduce: another rank has left or died"), "{output}");
    }
}

#[test]
fn a_hanging_rank_ends_the_others() {
    for output in outputs_after(|rank| rank.signal("STOP")) {
        // The first rank to time out leaves, which the other may notice before its own timeout.
        assert!(output.contains("no answer within 3 s") || output.contains("has left or died"), "{output}");
    }
}

#[test]
fn processes_that_all_join_succeed() {
    let port = free_port();
    let ranks: Vec<Process> = (0..2).map(|rank| Process::start(process("meets", rank, 2, port))).collect();
    for rank in ranks {
        let output = rank.output(PATIENT);
        assert!(output.status.success(), "{}", text(&output));
        assert!(text(&output).contains("sum 3 gathered [0.5, 1.5] of 2"), "{}", text(&output));
    }
}

/// The store, where the ranks meet, asks nobody for a password.
#[test]
#[cfg(target_os = "linux")]
fn a_group_at_a_loopback_address_is_out_of_reach_for_other_machines() {
    for address in ["127.0.0.1", "localhost", "::1"] {
        let port = free_port();
        let launches = [0, 1].map(|rank| Launch { address: address.to_owned(), ..launch(rank, 2, port) });
        let listening = std::thread::scope(|scope| {
            let ranks = launches.map(|launch| {
                scope.spawn(move || {
                    let group = join(&launch, PATIENT).unwrap();
                    let found = listening_addresses(port);
                    group.leave().unwrap();
                    found
                })
            });
            ranks.map(|rank| rank.join().unwrap())
        });
        let [found, _] = listening;
        // As the kernel writes 127.0.0.1 and ::1.
        let loopback = ["0100007F", "00000000000000000000000001000000"];
        assert!(!found.is_empty() && found.iter().all(|place| loopback.contains(&&**place)), "{address}: {found:?}");
    }
}

/// The addresses at which sockets of this machine listen on `port`.
fn listening_addresses(port: u16) -> Vec<String> {
    const LISTENING: &str = "0A";
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| std::fs::read_to_string(table).unwrap_or_default());
    let rows = tables.iter().flat_map(|table| table.lines().skip(1));
    let sockets = rows.filter_map(|row| {
        let columns: Vec<&str> = row.split_whitespace().collect();
        let (address, its_port) = columns.get(1)?.split_once(':')?;
        (columns.get(3) == Some(&LISTENING) && u16::from_str_radix(its_port, 16) == Ok(port))
            .then(|| address.to_owned())
    });
    sockets.collect()
}
