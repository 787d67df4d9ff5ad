//! A small HTTP server whose faults follow a script.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// How the server answers one request.
pub(super) enum Reply {
    /// Correctly, ranges included.
    Good,
    /// Correctly, but the connection ends after so many bytes of the body.
    Cut(usize),
    /// With the whole file, whatever the range.
    NoRange,
    /// With another range than requested.
    WrongRange,
    /// With a status line only.
    Status(u16),
    /// With a length that it does not have.
    Claims(u64),
    /// With another address.
    Redirect(&'static str),
}

/// One request as the server saw it: its `Range` header, and the number of bytes sent.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Seen {
    pub(super) range: Option<String>,
    pub(super) sent: usize,
}

/// Starts a server that answers each request with the next reply of `script`, and stops after the last.
pub(super) fn serve(file: Vec<u8>, script: Vec<Reply>) -> (String, Arc<Mutex<Vec<Seen>>>) {
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
        (Reply::Claims(_), Some(start)) => (206, start),
        (Reply::Redirect(_), _) => (302, file.len()),
        (_, None) | (Reply::NoRange, _) => (200, 0),
    };
    let body = &file[start..];
    let length = if let Reply::Claims(length) = reply { *length } else { body.len() as u64 };
    let mut head = format!("HTTP/1.1 {status} -\r\nContent-Length: {length}\r\nConnection: close\r\n");
    if let Reply::Redirect(to) = reply {
        head += &format!("Location: {to}\r\n");
    }
    if status == 206 {
        head += &format!("Content-Range: bytes {start}-{}/{}\r\n", file.len() - 1, file.len());
    }
    let sent = if let Reply::Cut(count) = reply { *count } else { body.len() };
    // Logged before it is sent: the test reads the log as soon as it has the answer.
    log.lock().unwrap().push(Seen { range, sent });
    stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
    // The client may have left.
    let _ = stream.write_all(&body[..sent]);
}
