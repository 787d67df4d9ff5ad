//! Fetches a file over HTTP, continuing where an earlier attempt stopped.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;
use std::thread;
use std::time::Duration;

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use ureq::http::Response;
use ureq::{Agent, Body};

use super::{Source, checksum, storage_error};
use crate::Result;
use crate::terminal::log;

/// The longest archive accepted; the official ones have 170,052,171 and 168,513,733 bytes.
const MAX_ARCHIVE_BYTES: u64 = 200_000_000;

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
enum Attempt {
    /// The part file is as long as the server's file.
    Complete,
    /// Why the file is not complete; the bytes that arrived are kept.
    Broken(String),
}

/// Fills `part` with the archive, in as many attempts as allowed.
pub(super) fn fetch(source: &Source, part: &Path) -> Result<()> {
    let agent = agent(&source.url);
    let progress = Progress::start(&source.url);
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
    let folder = part.parent().unwrap_or(part).display();
    Err(format!(
        "cannot download {url}: {reason}; start again to continue, name a mirror, or put {file_name} into {folder} by \
         hand"
    )
    .into())
}

/// A client that gives up on a silent server, but not on a slow one.
fn agent(url: &str) -> Agent {
    let mut config = Agent::config_builder()
        .http_status_as_error(false)
        .timeout_resolve(Some(Duration::from_secs(20)))
        .timeout_connect(Some(Duration::from_secs(20)))
        .timeout_recv_response(Some(Duration::from_secs(60)))
        .timeout_per_read(Some(Duration::from_secs(30)));
    // The environment may name a proxy, which cannot reach a server on this machine.
    if url.starts_with("http://127.0.0.1") || url.starts_with("http://localhost") {
        config = config.proxy(None);
    }
    config.build().new_agent()
}

/// Requests the bytes that `part` lacks, and appends them.
fn request(agent: &Agent, source: &Source, part: &Path, progress: &Progress) -> Result<Attempt> {
    let present = fs::metadata(part).map_or(0, |metadata| metadata.len());
    let url = &source.url;
    let mut request = agent.get(url);
    if present > 0 {
        request = request.header("Range", format!("bytes={present}-"));
    }
    let response = match request.call() {
        Ok(response) => response,
        Err(error @ (ureq::Error::BadUri(_) | ureq::Error::TooManyRedirects | ureq::Error::Tls(_))) => {
            return Err(format!("cannot download {url}: {error}").into());
        }
        Err(error) => return Ok(Attempt::Broken(error.to_string())),
    };
    match response.status().as_u16() {
        200 => receive(response, File::create(part), 0, part, progress),
        206 if range_start(&response) == Some(present) => {
            receive(response, OpenOptions::new().append(true).open(part), present, part, progress)
        }
        // Nothing is left to send: the part is complete, or it is not the beginning of this file.
        416 if checksum(part).is_ok_and(|found| found == source.checksum) => Ok(Attempt::Complete),
        206 | 416 => {
            fs::remove_file(part).map_err(|error| storage_error(part, &error))?;
            Ok(Attempt::Broken("the server cannot continue the partial file".to_owned()))
        }
        status @ (408 | 429 | 500..=599) => Ok(Attempt::Broken(format!("the server answers with status {status}"))),
        status => {
            let advice = "check the address or name a mirror";
            Err(format!("cannot download {url}: the server answers with status {status}; {advice}").into())
        }
    }
}

/// The first byte of a partial response: `5` in `Content-Range: bytes 5-9/10`.
fn range_start(response: &Response<Body>) -> Option<u64> {
    let range = response.headers().get("content-range")?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

/// Writes the body of a response after the `present` bytes of the part file.
fn receive(
    mut response: Response<Body>,
    file: io::Result<File>,
    present: u64,
    part: &Path,
    progress: &Progress,
) -> Result<Attempt> {
    let mut file = file.map_err(|error| storage_error(part, &error))?;
    let total = response.body().content_length().map(|length| present + length);
    let mut length = present;
    progress.begin(length, total);
    let mut body = response.body_mut().as_reader();
    let mut buffer = vec![0; 1 << 16];
    loop {
        if length.max(total.unwrap_or(0)) > MAX_ARCHIVE_BYTES {
            drop(file);
            fs::remove_file(part).map_err(|error| storage_error(part, &error))?;
            return Err(format!("the server offers more than {MAX_ARCHIVE_BYTES} bytes: check the address").into());
        }
        match body.read(&mut buffer) {
            Ok(0) if total.is_none_or(|total| length == total) => return Ok(Attempt::Complete),
            Ok(0) => return Ok(Attempt::Broken("the connection ended early".to_owned())),
            Ok(count) => {
                file.write_all(&buffer[..count]).map_err(|error| storage_error(part, &error))?;
                length += count as u64;
                progress.set_position(length);
            }
            Err(error) => return Ok(Attempt::Broken(error.to_string())),
        }
    }
}

/// A progress bar on a terminal, two lines in a log file.
struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    fn start(url: &str) -> Self {
        if !io::stderr().is_terminal() {
            log!("downloading {url}");
            return Self { bar: None };
        }
        let template = "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let name = url.rsplit('/').next().unwrap_or(url).to_owned();
        Self { bar: Some(ProgressBar::no_length().with_style(style.progress_chars("=> ")).with_message(name)) }
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
