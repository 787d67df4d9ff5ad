//! Reads the environment variables that a launcher sets for its ranks.

use std::env;
use std::str::FromStr;

use crate::error::{Error, Result};

/// The place of this process among the ranks, and where the ranks meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// The number of this rank, from 0 to `world_size - 1`.
    pub rank: i64,
    /// How many ranks there are.
    pub world_size: i64,
    /// The number of this rank among those on the same machine, usually the index of its GPU.
    pub local_rank: i64,
    /// The host where the ranks meet, by name or IP address.
    pub address: String,
    /// The TCP port on that host.
    pub port: u16,
    /// Whether the launcher hosts the store where ranks meet, as `torchrun` does; else rank 0 hosts it.
    pub launcher_serves: bool,
    /// How often the launcher has restarted all ranks after a failure.
    pub restart: i64,
}

impl Launch {
    /// Reads `WORLD_SIZE`, `RANK`, `LOCAL_RANK`, `MASTER_ADDR` and `MASTER_PORT`, as set by `torchrun` and other
    /// launchers. `None` if `WORLD_SIZE` is not set, which means that this process runs on its own.
    ///
    /// # Errors
    ///
    /// [`Error::Group`] if `WORLD_SIZE` is set and another variable is missing or invalid; it names the variable.
    pub fn from_env() -> Result<Option<Launch>> {
        Launch::from_variables(|name| env::var_os(name).map(|value| value.to_string_lossy().into_owned()))
    }

    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Launch>> {
        const MAX_RANKS: i64 = i32::MAX as i64;
        if variable("WORLD_SIZE").is_none() {
            return Ok(None);
        }
        let text = |name: &str| match variable(name) {
            Some(text) if !text.is_empty() => Ok(text),
            _ => Err(problem(format!("WORLD_SIZE is set, but {name} is not"))),
        };
        let number = |name: &str, first: i64, last: i64| {
            let text = text(name)?;
            let fits = i64::from_str(&text).ok().filter(|number| (first..=last).contains(number));
            fits.ok_or_else(|| problem(format!("{name} must be an integer from {first} to {last}, got {text:?}")))
        };
        let world_size = number("WORLD_SIZE", 1, MAX_RANKS)?;
        // torchrun's variables, with its spelling.
        let launcher_serves = variable("TORCHELASTIC_USE_AGENT_STORE").as_deref() == Some("True");
        let restart = if launcher_serves { number("TORCHELASTIC_RESTART_COUNT", 0, i64::MAX)? } else { 0 };
        Ok(Some(Launch {
            rank: number("RANK", 0, world_size - 1)?,
            world_size,
            local_rank: number("LOCAL_RANK", 0, world_size - 1)?,
            address: text("MASTER_ADDR")?,
            port: number("MASTER_PORT", 1, u16::MAX.into())? as u16,
            launcher_serves,
            restart,
        }))
    }
}

fn problem(problem: String) -> Error {
    Error::Group { doing: "reading the launcher's variables", problem }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const TORCHRUN: [(&str, &str); 7] = [
        ("WORLD_SIZE", "4"),
        ("RANK", "3"),
        ("LOCAL_RANK", "1"),
        ("MASTER_ADDR", "127.0.0.1"),
        ("MASTER_PORT", "29500"),
        ("TORCHELASTIC_USE_AGENT_STORE", "True"),
        ("TORCHELASTIC_RESTART_COUNT", "2"),
    ];

    /// The variables of `TORCHRUN`, with `value` for `name`.
    fn with(name: &str, value: Option<&str>) -> Result<Option<Launch>> {
        Launch::from_variables(|asked| {
            let set = TORCHRUN.iter().find(|(set, _)| *set == asked).map(|(_, value)| *value);
            let value = if asked == name { value } else { set };
            value.map(str::to_owned)
        })
    }

    #[test]
    fn the_variables_of_torchrun_are_read() {
        let address = "127.0.0.1".to_owned();
        let (port, launcher_serves) = (29500, true);
        let all = Launch { rank: 3, world_size: 4, local_rank: 1, address, port, launcher_serves, restart: 2 };
        assert_eq!(with("", None).unwrap(), Some(all.clone()));
        let rank_0_hosts = Launch { launcher_serves: false, restart: 0, ..all };
        assert_eq!(with("TORCHELASTIC_USE_AGENT_STORE", None).unwrap(), Some(rank_0_hosts.clone()));
        assert_eq!(with("TORCHELASTIC_USE_AGENT_STORE", Some("False")).unwrap(), Some(rank_0_hosts));
    }

    #[test]
    fn a_process_without_a_launcher_is_on_its_own() {
        assert_eq!(with("WORLD_SIZE", None).unwrap(), None);
    }

    #[test]
    fn a_missing_or_invalid_variable_is_named() {
        let wrong = [
            ("WORLD_SIZE", vec!["", "0", "-1", "many", "99999999999"]),
            ("RANK", vec!["", "-1", "4", "1.5"]),
            ("LOCAL_RANK", vec!["", "-1", "4"]),
            ("MASTER_ADDR", vec![""]),
            ("MASTER_PORT", vec!["", "0", "65536", "http"]),
            ("TORCHELASTIC_RESTART_COUNT", vec!["", "-1", "once"]),
        ];
        for (name, values) in wrong {
            for value in values {
                let error = with(name, Some(value)).unwrap_err().to_string();
                assert!(error.contains(name) && error.contains(value), "{name}={value}: {error}");
            }
            if name != "WORLD_SIZE" {
                assert!(with(name, None).unwrap_err().to_string().contains(name));
            }
        }
    }
}
