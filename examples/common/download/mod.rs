//! Fetches the official CIFAR archives, once, and unpacks them.
//!
//! A broken connection is taken up where it broke, nothing is opened before its checksum is right, and the data
//! folder appears only when every file in it is whole.

mod unpack;

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use md5::{Digest, Md5};

use unpack::Contents;

/// A result whose error is one line for the person at the terminal.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The longest archive that is accepted; the official ones have 170,052,171 and 168,513,733 bytes.
const LARGEST_ARCHIVE: u64 = 200_000_000;

/// One of the two official archives in the binary version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Archive {
    /// 60,000 images of 10 classes.
    Cifar10,
    /// 60,000 images of 100 classes.
    Cifar100,
}

impl Archive {
    /// Where the authors of the data offer this archive.
    pub(crate) fn official_url(self) -> &'static str {
        match self {
            Self::Cifar10 => "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            Self::Cifar100 => "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        }
    }

    /// What is fetched from `url`, and what must be in it. The checksums are those of the authors' page.
    fn source(self, url: &str) -> Source {
        let (file_name, checksum, folder_name, files): (_, _, _, &[_]) = match self {
            Self::Cifar10 => (
                "cifar-10-binary.tar.gz",
                "c32a1d4ab5d03f1284b67883e8d87530",
                "cifar-10-batches-bin",
                &[
                    ("data_batch_1.bin", 30_730_000),
                    ("data_batch_2.bin", 30_730_000),
                    ("data_batch_3.bin", 30_730_000),
                    ("data_batch_4.bin", 30_730_000),
                    ("data_batch_5.bin", 30_730_000),
                    ("test_batch.bin", 30_730_000),
                ],
            ),
            Self::Cifar100 => (
                "cifar-100-binary.tar.gz",
                "03b5dce01913d631647c71ecec9e9cb8",
                "cifar-100-binary",
                &[("train.bin", 153_700_000), ("test.bin", 30_740_000)],
            ),
        };
        // The images are 184 MB; the rest is room for lists of names and the archive's own headers.
        let contents = Contents { folder_name, files, largest: 190_000_000 };
        Source { url: url.to_owned(), file_name, checksum: checksum.to_owned(), contents, retry: Retry::default() }
    }
}

/// Makes sure that the files of `archive` lie in a sub-folder of `folder`, and returns that sub-folder.
///
/// Where they are there already, nothing is fetched. `mirror` replaces the official address. An archive that somebody
/// put into `folder` by hand, under its official name, is used instead of the network.
pub(crate) fn cifar(archive: Archive, folder: &Path, mirror: Option<&str>) -> Result<PathBuf> {
    provide(&archive.source(mirror.unwrap_or(archive.official_url())), folder)
}

/// Everything that [`provide`] has to know of an archive.
struct Source {
    url: String,
    file_name: &'static str,
    /// MD5, in lower-case hexadecimal.
    checksum: String,
    contents: Contents,
    retry: Retry,
}

/// How often a broken connection is taken up again.
struct Retry {
    attempts: u32,
    /// The pause before the second attempt; it grows by as much with each further one.
    pause: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 6, pause: Duration::from_secs(2) }
    }
}

/// The whole way from nothing to a folder of data files.
fn provide(source: &Source, folder: &Path) -> Result<PathBuf> {
    if source.contents.check(folder).is_ok() {
        return Ok(folder.to_owned()); // the files lie in the folder itself
    }
    let target = folder.join(source.contents.folder_name);
    if target.exists() {
        // Whatever is there may be somebody's own: it is never replaced.
        source.contents.check(&target).map_err(|error| format!("{error}; move the folder away to fetch it anew"))?;
        return Ok(target);
    }
    fs::create_dir_all(folder).map_err(|error| storage_error(folder, &error))?;
    let archive = folder.join(source.file_name);
    let by_hand = archive.exists();
    if by_hand {
        verify(&archive, source).map_err(|error| format!("{error}; remove this file to have it fetched"))?;
    } else {
        let part = folder.join(format!("{}.part", source.file_name));
        fetch(source, &part)?;
        if let Err(error) = verify(&part, source) {
            fs::remove_file(&part).map_err(|error| storage_error(&part, &error))?;
            return Err(
                format!("{error}; it came from {} and was removed: try again or name a mirror", source.url).into()
            );
        }
        fs::rename(&part, &archive).map_err(|error| storage_error(&archive, &error))?;
    }
    unpack::unpack(&archive, &source.contents, folder)?;
    if !by_hand {
        // The data is in place; an archive that cannot be removed is no reason to stop.
        let _ = fs::remove_file(&archive);
    }
    Ok(target)
}

/// Compares the checksum of a file with the expected one.
fn verify(path: &Path, source: &Source) -> Result<()> {
    let found = checksum(path).map_err(|error| storage_error(path, &error))?;
    if found != source.checksum {
        let name = path.display();
        return Err(format!("{name} has the wrong MD5 checksum: expected {}, found {found}", source.checksum).into());
    }
    Ok(())
}

/// The MD5 of a file, in lower-case hexadecimal.
fn checksum(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut digest = Md5::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => digest.update(&buffer[..count]),
        }
    }
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// What one request came to. Errors that another attempt cannot mend are the `Err` beside it.
enum Attempt {
    /// The part file holds all that the server has.
    Whole,
    /// Why the file is not whole; what has arrived is kept.
    Broken(String),
}

/// Fills `part` with the archive, in as many attempts as it takes and is allowed.
fn fetch(source: &Source, part: &Path) -> Result<()> {
    let agent = agent(&source.url);
    let mut progress = Progress::start(&source.url);
    let mut reason = String::new();
    for attempt in 0..source.retry.attempts {
        std::thread::sleep(source.retry.pause * attempt);
        match request(&agent, source, part, &mut progress)? {
            Attempt::Whole => {
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
        "cannot fetch {url}: {reason}; start again to go on where it broke, name a mirror, or put {file_name} into \
         {folder} by hand"
    )
    .into())
}

/// A client that gives up on silence, but not on a slow line.
fn agent(url: &str) -> ureq::Agent {
    let mut config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_resolve(Some(Duration::from_secs(20)))
        .timeout_connect(Some(Duration::from_secs(20)))
        .timeout_recv_response(Some(Duration::from_secs(60)))
        .timeout_per_read(Some(Duration::from_secs(30)));
    // A server on this machine is never behind the proxy that the environment may name.
    if url.starts_with("http://127.0.0.1") || url.starts_with("http://localhost") {
        config = config.proxy(None);
    }
    config.build().new_agent()
}

/// Asks once for what `part` lacks, and appends it.
fn request(agent: &ureq::Agent, source: &Source, part: &Path, progress: &mut Progress) -> Result<Attempt> {
    let present = fs::metadata(part).map_or(0, |metadata| metadata.len());
    let mut request = agent.get(&source.url);
    if present > 0 {
        request = request.header("Range", format!("bytes={present}-"));
    }
    let response = match request.call() {
        Ok(response) => response,
        Err(error @ (ureq::Error::BadUri(_) | ureq::Error::TooManyRedirects | ureq::Error::Tls(_))) => {
            return Err(format!("cannot fetch {}: {error}", source.url).into());
        }
        Err(error) => return Ok(Attempt::Broken(error.to_string())),
    };
    match response.status().as_u16() {
        200 => receive(response, File::create(part), 0, part, progress),
        206 if range_start(&response) == Some(present) => {
            receive(response, OpenOptions::new().append(true).open(part), present, part, progress)
        }
        // Either everything is there and only the name was not changed yet, or it is not a beginning of this file.
        416 if checksum(part).is_ok_and(|found| found == source.checksum) => Ok(Attempt::Whole),
        206 | 416 => {
            fs::remove_file(part).map_err(|error| storage_error(part, &error))?;
            Ok(Attempt::Broken("the server has no continuation of what is there".to_owned()))
        }
        status @ (408 | 429 | 500..=599) => Ok(Attempt::Broken(format!("the server answers with status {status}"))),
        status => Err(format!(
            "cannot fetch {}: the server answers with status {status}; check the address or name a mirror",
            source.url
        )
        .into()),
    }
}

/// The first byte that a partial answer holds: `5` in `Content-Range: bytes 5-9/10`.
fn range_start(response: &ureq::http::Response<ureq::Body>) -> Option<u64> {
    let range = response.headers().get("content-range")?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

/// Writes the body of an answer behind the `present` bytes of the part file.
fn receive(
    mut response: ureq::http::Response<ureq::Body>,
    file: io::Result<File>,
    present: u64,
    part: &Path,
    progress: &mut Progress,
) -> Result<Attempt> {
    let mut file = file.map_err(|error| storage_error(part, &error))?;
    let total = response.body().content_length().map(|length| present + length);
    let mut length = present;
    progress.range(length, total);
    let mut body = response.body_mut().as_reader();
    let mut buffer = vec![0; 1 << 16];
    loop {
        if length.max(total.unwrap_or(0)) > LARGEST_ARCHIVE {
            drop(file);
            fs::remove_file(part).map_err(|error| storage_error(part, &error))?;
            return Err(format!("the server offers more than {LARGEST_ARCHIVE} bytes: check the address").into());
        }
        match body.read(&mut buffer) {
            Ok(0) if total.is_none_or(|total| length == total) => return Ok(Attempt::Whole),
            Ok(0) => return Ok(Attempt::Broken("the connection ended early".to_owned())),
            Ok(count) => {
                file.write_all(&buffer[..count]).map_err(|error| storage_error(part, &error))?;
                length += count as u64;
                progress.position(length);
            }
            Err(error) => return Ok(Attempt::Broken(error.to_string())),
        }
    }
}

/// An error of the file system, with the path and, where it is known, the way out.
fn storage_error(path: &Path, error: &io::Error) -> Box<dyn std::error::Error> {
    let advice = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "; make room for 400 MB and start again",
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => "; name a folder that can be written to",
        _ => "",
    };
    format!("{}: {error}{advice}", path.display()).into()
}

/// A bar for a person, two lines for a log file.
struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    fn start(url: &str) -> Self {
        if !io::stderr().is_terminal() {
            eprintln!("fetching {url}");
            return Self { bar: None };
        }
        let template = "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let name = url.rsplit('/').next().unwrap_or(url).to_owned();
        Self { bar: Some(ProgressBar::no_length().with_style(style.progress_chars("=> ")).with_message(name)) }
    }

    /// A new answer begins: so much is there, of so much.
    fn range(&mut self, position: u64, total: Option<u64>) {
        if let Some(bar) = &self.bar {
            if let Some(total) = total {
                bar.set_length(total);
            }
            bar.set_position(position);
            // What an earlier attempt fetched must not count towards the speed of this one.
            bar.reset_eta();
        }
    }

    fn position(&mut self, position: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(position);
        }
    }

    fn finish(&mut self, file_name: &str, length: u64) {
        match &self.bar {
            Some(bar) => bar.finish(),
            None => eprintln!("fetched {file_name}, {}", HumanBytes(length)),
        }
    }
}

#[cfg(test)]
mod tests;
