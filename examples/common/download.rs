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
mod tests {
    use std::collections::VecDeque;
    use std::io::{BufRead, BufReader};
    use std::net::{TcpListener, TcpStream};
    use std::sync::{Arc, Mutex};

    use super::*;

    /// How the server answers one request.
    enum Reply {
        /// As a good server does, ranges included.
        Good,
        /// As a good server does, but the connection ends after so many bytes of the body.
        Cut(usize),
        /// The whole file, whatever was asked for.
        NoRange,
        /// Another part of the file than asked for.
        WrongRange,
        /// A bare status line.
        Status(u16),
    }

    /// One request as the server saw it: its `Range` header, and how many bytes of the file it sent.
    #[derive(Clone, Debug, PartialEq)]
    struct Seen {
        range: Option<String>,
        sent: usize,
    }

    /// A server that gives one reply of `script` to each request, and is gone after the last.
    fn serve(file: Vec<u8>, script: Vec<Reply>) -> (String, Arc<Mutex<Vec<Seen>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/small.tar.gz", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        std::thread::spawn(move || {
            let mut script = VecDeque::from(script);
            while let Some(reply) = script.pop_front() {
                let (stream, _) = listener.accept().unwrap();
                answer(stream, &file, &reply, &log);
            }
        });
        (url, seen)
    }

    fn answer(mut stream: TcpStream, file: &[u8], reply: &Reply, log: &Mutex<Vec<Seen>>) {
        let lines = BufReader::new(stream.try_clone().unwrap()).lines().map(|line| line.unwrap());
        let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
        let range = headers.iter().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("range").then(|| value.to_owned())
        });
        let asked = range.as_ref().map(|range| range["bytes=".len()..range.len() - 1].parse::<usize>().unwrap());
        let (status, start) = match (reply, asked) {
            (Reply::Status(status), _) => (*status, file.len()),
            (Reply::Good | Reply::Cut(_), Some(start)) if start >= file.len() => (416, file.len()),
            (Reply::Good | Reply::Cut(_), Some(start)) => (206, start),
            (Reply::WrongRange, Some(start)) => (206, start - 1),
            (_, None) | (Reply::NoRange, _) => (200, 0),
        };
        let body = &file[start..];
        let mut head = format!("HTTP/1.1 {status} -\r\nContent-Length: {}\r\nConnection: close\r\n", body.len());
        if status == 206 {
            head += &format!("Content-Range: bytes {start}-{}/{}\r\n", file.len() - 1, file.len());
        }
        let sent = if let Reply::Cut(count) = reply { *count } else { body.len() };
        // Before it is sent, so that the test that waits for the answer finds it.
        log.lock().unwrap().push(Seen { range, sent });
        stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
        stream.write_all(&body[..sent]).unwrap();
    }

    const FILES: &[(&str, u64)] = &[("a.bin", 5000), ("b.bin", 300)];

    /// Bytes that do not compress, so that a cut of the archive hits data.
    fn noise(length: u64) -> Vec<u8> {
        let mut state = 1_u64;
        let step = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        std::iter::repeat_with(step).take(length as usize).collect()
    }

    /// Adds an entry without the checks of the `tar` crate, which refuses to write a hostile path.
    fn add(builder: &mut tar::Builder<Vec<u8>>, path: &str, kind: tar::EntryType, data: &[u8]) {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(data.len() as u64);
        if kind.is_symlink() || kind.is_hard_link() {
            header.set_link_name("/etc/passwd").unwrap();
        }
        header.set_cksum();
        builder.append(&header, data).unwrap();
    }

    /// The archive that the tests expect, with one more entry at its end where given.
    fn archive(extra: Option<(&str, tar::EntryType)>) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        add(&mut builder, "small/", tar::EntryType::Directory, &[]);
        for (name, length) in FILES {
            add(&mut builder, &format!("small/{name}"), tar::EntryType::Regular, &noise(*length));
        }
        add(&mut builder, "small/readme.html", tar::EntryType::Regular, b"hello");
        if let Some((path, kind)) = extra {
            add(&mut builder, path, kind, if kind.is_file() { b"evil" } else { b"" });
        }
        compress(&builder.into_inner().unwrap())
    }

    fn compress(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn md5(data: &[u8]) -> String {
        Md5::digest(data).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn source(url: &str, archive: &[u8]) -> Source {
        let contents = Contents { folder_name: "small", files: FILES, largest: 20_000 };
        let retry = Retry { attempts: 4, pause: Duration::from_millis(1) };
        Source { url: url.to_owned(), file_name: "small.tar.gz", checksum: md5(archive), contents, retry }
    }

    /// A folder with one file of the user's in it.
    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("mine.txt"), "mine").unwrap();
        folder
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn assert_unpacked(folder: &Path) {
        assert_eq!(names(folder), ["mine.txt", "small"]);
        assert_eq!(names(&folder.join("small")), ["a.bin", "b.bin", "readme.html"]);
        assert_eq!(fs::read(folder.join("small/a.bin")).unwrap(), noise(5000));
        assert_eq!(fs::read(folder.join("small/b.bin")).unwrap(), noise(300));
        assert_eq!(fs::read(folder.join("mine.txt")).unwrap(), b"mine");
    }

    /// Runs the script and expects success; returns what the server saw.
    fn fetched(script: Vec<Reply>, part: Option<&[u8]>) -> Vec<Seen> {
        let (folder, archive) = (folder(), archive(None));
        if let Some(part) = part {
            fs::write(folder.path().join("small.tar.gz.part"), part).unwrap();
        }
        let (url, seen) = serve(archive.clone(), script);
        let target = provide(&source(&url, &archive), folder.path()).unwrap();
        assert_eq!(target, folder.path().join("small"));
        assert_unpacked(folder.path());
        // A second call needs no server: there is none any more.
        provide(&source(&url, &archive), folder.path()).unwrap();
        seen.lock().unwrap().clone()
    }

    fn seen(start: Option<usize>, sent: usize) -> Seen {
        Seen { range: start.map(|start| format!("bytes={start}-")), sent }
    }

    #[test]
    fn a_whole_download_is_unpacked_once() {
        assert_eq!(fetched(vec![Reply::Good], None), [seen(None, archive(None).len())]);
    }

    #[test]
    fn a_cut_connection_is_resumed_and_only_the_rest_travels() {
        let length = archive(None).len();
        let log = fetched(vec![Reply::Cut(2000), Reply::Cut(500), Reply::Good], None);
        assert_eq!(log, [seen(None, 2000), seen(Some(2000), 500), seen(Some(2500), length - 2500)]);
    }

    #[test]
    fn the_part_of_an_earlier_run_is_used() {
        let archive = archive(None);
        let log = fetched(vec![Reply::Good], Some(&archive[..3000]));
        assert_eq!(log, [seen(Some(3000), archive.len() - 3000)]);
    }

    #[test]
    fn a_server_that_ignores_the_range_starts_over() {
        let length = archive(None).len();
        let log = fetched(vec![Reply::Cut(2000), Reply::NoRange], None);
        assert_eq!(log, [seen(None, 2000), seen(Some(2000), length)]);
        let log = fetched(vec![Reply::Cut(2000), Reply::WrongRange, Reply::Good], None);
        assert_eq!(log.last(), Some(&seen(None, length)));
    }

    #[test]
    fn a_part_that_cannot_be_continued_is_looked_at() {
        let archive = archive(None);
        // Whole: the checksum says so, and nothing travels.
        assert_eq!(fetched(vec![Reply::Good], Some(&archive)), [seen(Some(archive.len()), 0)]);
        // Too long: fetched anew.
        let log = fetched(vec![Reply::Good, Reply::Good], Some(&[0; 9000]));
        assert_eq!(log, [seen(Some(9000), 0), seen(None, archive.len())]);
    }

    #[test]
    fn a_busy_server_is_asked_again() {
        let log = fetched(vec![Reply::Status(503), Reply::Good], None);
        assert_eq!(log.len(), 2);
    }

    #[test]
    fn an_archive_put_there_by_hand_is_used_and_kept() {
        let (folder, archive) = (folder(), archive(None));
        let path = folder.path().join("small.tar.gz");
        fs::write(&path, &archive).unwrap();
        let source = source("http://127.0.0.1:1/", &archive);
        provide(&source, folder.path()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), archive);
        assert_eq!(names(folder.path()), ["mine.txt", "small", "small.tar.gz"]);
    }

    /// Serves `served` where `expected` is wanted; returns the error, which must leave nothing half behind.
    fn refused(served: Vec<u8>, expected: &[u8], script: Vec<Reply>, left: &[&str]) -> String {
        let folder = folder();
        let (url, _) = serve(served, script);
        let error = provide(&source(&url, expected), folder.path()).unwrap_err().to_string();
        assert_eq!(names(folder.path()), left, "{error}");
        assert!(!error.contains('\n'));
        error
    }

    #[test]
    fn a_wrong_checksum_is_refused_before_unpacking() {
        let (good, mut bad) = (archive(None), archive(None));
        bad[1000] ^= 1;
        let error = refused(bad.clone(), &good, vec![Reply::Good], &["mine.txt"]);
        assert!(error.contains(&md5(&good)) && error.contains(&md5(&bad)), "{error}");
    }

    #[test]
    fn hostile_entries_are_refused() {
        use tar::EntryType;
        for (path, kind) in [
            ("../evil", EntryType::Regular),
            ("small/../../evil", EntryType::Regular),
            ("/tmp/evil", EntryType::Regular),
            ("other/evil", EntryType::Regular),
            ("evil", EntryType::Regular),
            ("small/deep/evil", EntryType::Regular),
            ("small/a.bin", EntryType::Regular),
            ("small/link", EntryType::Symlink),
            ("small/link", EntryType::Link),
            ("small/pipe", EntryType::Fifo),
            ("small/deep", EntryType::Directory),
        ] {
            let archive = archive(Some((path, kind)));
            let error = refused(archive.clone(), &archive, vec![Reply::Good], &["mine.txt", "small.tar.gz"]);
            assert!(error.contains(path.rsplit('/').next().unwrap()), "{path}: {error}");
        }
    }

    #[test]
    fn an_archive_that_unpacks_to_too_much_is_refused() {
        let mut builder = tar::Builder::new(Vec::new());
        add(&mut builder, "small/a.bin", tar::EntryType::Regular, &[0; 30_000]);
        let archive = compress(&builder.into_inner().unwrap());
        let error = refused(archive.clone(), &archive, vec![Reply::Good], &["mine.txt", "small.tar.gz"]);
        assert!(error.contains("more in the archive"), "{error}");
    }

    #[test]
    fn a_server_that_is_gone_is_named_and_the_part_is_kept() {
        let archive = archive(None);
        let script = vec![Reply::Cut(100), Reply::Cut(100)];
        let error = refused(archive.clone(), &archive, script, &["mine.txt", "small.tar.gz.part"]);
        assert!(error.contains("http://127.0.0.1") && error.contains("by hand"), "{error}");
        let error = refused(archive.clone(), &archive, vec![Reply::Status(404)], &["mine.txt"]);
        assert!(error.contains("404"), "{error}");
    }

    #[test]
    fn a_folder_that_is_not_whole_is_left_alone() {
        let (folder, archive) = (folder(), archive(None));
        fs::create_dir(folder.path().join("small")).unwrap();
        fs::write(folder.path().join("small/a.bin"), "short").unwrap();
        let error = provide(&source("http://127.0.0.1:1/", &archive), folder.path()).unwrap_err().to_string();
        assert!(error.contains("a.bin has 5 bytes instead of 5000"), "{error}");
        assert_eq!(fs::read(folder.path().join("small/a.bin")).unwrap(), b"short");
        assert_eq!(names(folder.path()), ["mine.txt", "small"]);
    }

    #[test]
    fn the_sizes_are_those_of_60_000_records() {
        for (archive, record) in [(Archive::Cifar10, 1 + 3072), (Archive::Cifar100, 2 + 3072)] {
            let source = archive.source(archive.official_url());
            assert_eq!(source.contents.files.iter().map(|(_, length)| length).sum::<u64>(), 60_000 * record);
            assert!(source.url.ends_with(source.file_name));
        }
    }
}
