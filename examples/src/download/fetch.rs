//! Fetches a file over HTTP, continuing where an earlier attempt stopped.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, IsTerminal, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::thread;
use std::time::Duration;

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::geteuid;
use patchmix::files::printable;
use ureq::http::Response;
use ureq::{Agent, Body};

use super::address::{Address, without_secrets};
use super::{Source, checksums, storage_error};
use crate::Result;
use crate::terminal::log;

/// How often a broken connection is retried.
pub(super) struct Retry {
    pub(super) attempts: u32,
    /// Pause before the second attempt; it grows by as much before each further one.
    pub(super) pause: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 6, pause: Duration::from_secs(2) }
    }
}

/// Outcome of one request. Errors that another attempt cannot fix are returned as `Err`.
pub(super) enum Attempt {
    /// The part file is as long as the server's file.
    Complete,
    /// Why the file is not complete; the bytes that arrived are kept.
    Broken(String),
}

/// Fills `part` with the archive, in as many attempts as allowed.
pub(super) fn fetch(source: &Source, part: &Path) -> Result<()> {
    let agent = agent(&source.url);
    let progress = Progress::start(source);
    let mut reason = String::new();
    for attempt in 0..source.retry.attempts {
        thread::sleep(source.retry.pause * attempt);
        match request(&agent, source, part, &progress)? {
            Attempt::Complete => {
                let length = fs::metadata(part).map_err(|error| storage_error(part, &error))?.len();
                progress.finish(source.file_name, length);
                return Ok(());
            }
            Attempt::Broken(why) => reason = why,
        }
    }
    let Source { url, file_name, .. } = source;
    let folder = printable(part.parent().unwrap_or(part).display());
    Err(format!(
        "cannot download {url}: {reason}; start again to continue, name a mirror, or put {file_name} into {folder} by \
         hand"
    )
    .into())
}

/// A client that gives up on a silent server, but not on a slow one. A redirection does not lead out of HTTPS.
pub(super) fn agent(url: &Address) -> Agent {
    let mut config = Agent::config_builder()
        .http_status_as_error(false)
        .https_only(url.is_https())
        .timeout_resolve(Some(Duration::from_secs(20)))
        .timeout_connect(Some(Duration::from_secs(20)))
        .timeout_recv_response(Some(Duration::from_secs(60)))
        .timeout_per_read(Some(Duration::from_secs(30)));
    // The environment may name a proxy, which cannot reach a server on this machine.
    if url.is_local() {
        config = config.proxy(None);
    }
    config.build().new_agent()
}

/// Requests the bytes that `part` lacks, and appends them.
fn request(agent: &Agent, source: &Source, part: &Path, progress: &Progress) -> Result<Attempt> {
    let stored = |error: io::Error| storage_error(part, &error);
    let begun = open_begun(part).map_err(stored)?;
    let present = begun.as_ref().map_or(Ok(0), |file| file.metadata().map(|file| file.len())).map_err(stored)?;
    let url = &source.url;
    let mut request = agent.get(url.uri());
    if present > 0 {
        request = request.header("Range", format!("bytes={present}-"));
    }
    let response = match request.call() {
        Ok(response) => response,
        Err(error) => return unanswered(&error, url),
    };
    match (response.status().as_u16(), begun) {
        (200, begun) => {
            if begun.is_some() {
                fs::remove_file(part).map_err(stored)?;
            }
            receive(response, (File::create_new(part).map_err(stored)?, 0), source, part, progress)
        }
        (206, Some(file)) if range_start(&response) == Some(present) => {
            receive(response, (file, present), source, part, progress)
        }
        // Nothing is left to send: the part is complete, or it is not the beginning of this file.
        (416, _) if checksums(part).is_ok_and(|found| found == source.checksums) => Ok(Attempt::Complete),
        (206 | 416, _) => {
            if present > 0 {
                fs::remove_file(part).map_err(stored)?;
            }
            Ok(Attempt::Broken("the server cannot continue the partial file".to_owned()))
        }
        (status @ (408 | 429 | 500..=599), _) => {
            Ok(Attempt::Broken(format!("the server answers with status {status}")))
        }
        (status, _) => {
            let advice = "check the address or name a mirror";
            Err(format!("cannot download {url}: the server answers with status {status}; {advice}").into())
        }
    }
}

/// The outcome of a request without an answer.
pub(super) fn unanswered(error: &ureq::Error, url: &Address) -> Result<Attempt> {
    use ureq::Error::{BadUri, RequireHttpsOnly, Tls, TooManyRedirects};
    let reason = without_secrets(&error.to_string());
    match error {
        RequireHttpsOnly(to) => {
            let to = without_secrets(to);
            Err(format!("cannot download {url}: the server redirects to {to}, which is not HTTPS").into())
        }
        BadUri(_) | TooManyRedirects | Tls(_) => Err(format!("cannot download {url}: {reason}").into()),
        _ => Ok(Attempt::Broken(reason)),
    }
}

/// Opens what an earlier attempt left of the archive, to append to it. A link, a pipe, a file with a second name and
/// the file of another user are refused: someone else put them there, for us to write elsewhere or to read theirs.
fn open_begun(part: &Path) -> io::Result<Option<File>> {
    let refused = || io::Error::new(ErrorKind::InvalidInput, "was not left by a download of yours; remove it");
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK; // a pipe would wait for its reader
    let file = match OpenOptions::new().append(true).custom_flags(flags.bits()).open(part) {
        Ok(file) => file,
        Err(error) => {
            return match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::ENOENT) => Ok(None),
                // A link, a folder, and a pipe that nobody reads.
                Some(Errno::ELOOP | Errno::EISDIR | Errno::ENXIO) => Err(refused()),
                _ => Err(error),
            };
        }
    };
    let opened = file.metadata()?;
    if !opened.is_file() || opened.nlink() != 1 || opened.uid() != geteuid().as_raw() {
        return Err(refused());
    }
    Ok(Some(file))
}

/// The first byte of a partial response: `5` in `Content-Range: bytes 5-9/10`.
fn range_start(response: &Response<Body>) -> Option<u64> {
    let range = response.headers().get("content-range")?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

/// Writes the body of a response after the `present` bytes of the part file.
fn receive(
    mut response: Response<Body>,
    (mut file, present): (File, u64),
    source: &Source,
    part: &Path,
    progress: &Progress,
) -> Result<Attempt> {
    let total = response.body().content_length().map(|length| present.saturating_add(length));
    let mut length = present;
    progress.begin(length, total);
    let mut body = response.body_mut().as_reader();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let max = source.max_bytes;
        if length.max(total.unwrap_or(0)) > max {
            drop(file);
            fs::remove_file(part).map_err(|error| storage_error(part, &error))?;
            return Err(format!("the server offers more than {max} bytes: check the address").into());
        }
        match body.read(&mut buffer) {
            Ok(0) if total.is_none_or(|total| length == total) => return Ok(Attempt::Complete),
            Ok(0) => return Ok(Attempt::Broken("the connection ended early".to_owned())),
            Ok(count) => {
                file.write_all(&buffer[..count]).map_err(|error| storage_error(part, &error))?;
                length += count as u64;
                progress.set_position(length);
            }
            Err(error) => return Ok(Attempt::Broken(without_secrets(&error.to_string()))),
        }
    }
}

/// A progress bar on a terminal, two lines in a log file.
struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    fn start(source: &Source) -> Self {
        if !io::stderr().is_terminal() {
            log!("downloading {}", source.url);
            return Self { bar: None };
        }
        let template = "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::no_length().with_style(style.progress_chars("=> "));
        Self { bar: Some(bar.with_message(source.file_name)) }
    }

    /// A response begins after `position` bytes, of `total` if that is known.
    fn begin(&self, position: u64, total: Option<u64>) {
        if let Some(bar) = &self.bar {
            if let Some(total) = total {
                bar.set_length(total);
            }
            bar.set_position(position);
            // The bytes of an earlier attempt must not count toward the speed of this one.
            bar.reset_eta();
        }
    }

    fn set_position(&self, position: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(position);
        }
    }

    fn finish(&self, file_name: &str, length: u64) {
        match &self.bar {
            Some(bar) => bar.finish(),
            None => log!("downloaded {file_name}, {}", HumanBytes(length)),
        }
    }
}
