//! Where the time of a process goes, for the end of a run.

use std::time::Duration;

/// Times beside the training itself.
#[derive(Debug, Default)]
pub(super) struct Times {
    pub(super) knn: Duration,
    pub(super) probe: Duration,
    pub(super) representation: Duration,
}

/// The shares that `parts` and, first, `rest` have of a time: `training 90.0 %, kNN 9.5 %, saving 0.5 %`. Parts without
/// any time are left out.
pub(super) fn shares(whole: Duration, rest: &str, parts: &[(&str, Duration)]) -> String {
    let percent = |time: Duration| 100.0 * time.as_secs_f64() / whole.as_secs_f64().max(1e-9);
    let others: Duration = parts.iter().map(|(_, time)| *time).sum();
    let first = (rest, whole.saturating_sub(others));
    let shown = std::iter::once(&first).chain(parts.iter().filter(|(_, time)| !time.is_zero()));
    shown.map(|(name, time)| format!("{name} {:.1} %", percent(*time))).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_parts_are_shares_of_the_whole() {
        let seconds = Duration::from_secs;
        let parts = [("kNN", seconds(19)), ("probe", Duration::ZERO), ("saving", seconds(1))];
        assert_eq!(shares(seconds(200), "training", &parts), "training 90.0 %, kNN 9.5 %, saving 0.5 %");
        assert_eq!(shares(Duration::ZERO, "training", &[]), "training 0.0 %");
    }
}
