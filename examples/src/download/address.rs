//! Addresses of archives, which are shown without user names, passwords and queries.

use std::fmt::{self, Display, Formatter};
use std::net::IpAddr;

use patchmix::files::printable;
use ureq::http::Uri;

use crate::Result;

/// An address over HTTP or HTTPS.
pub(super) struct Address {
    uri: Uri,
}

impl Address {
    pub(super) fn parse(text: &str) -> Result<Self> {
        let uri = text.parse::<Uri>().ok().filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")));
        let uri = uri.filter(|uri| uri.host().is_some_and(|host| !host.is_empty()));
        let shown = without_secrets(text);
        let uri = uri.ok_or_else(|| format!("{shown:?} is not an address; it begins with https:// or http://"))?;
        Ok(Self { uri })
    }

    pub(super) fn uri(&self) -> &Uri {
        &self.uri
    }

    pub(super) fn is_https(&self) -> bool {
        self.uri.scheme_str() == Some("https")
    }

    /// Whether the server is this machine.
    pub(super) fn is_local(&self) -> bool {
        let host = self.uri.host().unwrap_or_default();
        let number = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).parse::<IpAddr>();
        host.eq_ignore_ascii_case("localhost") || number.is_ok_and(|number| number.is_loopback())
    }
}

impl Display for Address {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.write_str(&without_secrets(&self.uri.to_string()))
    }
}

/// Text with every address in it shown without its user name, password and query.
pub(super) fn without_secrets(text: &str) -> String {
    let shown: Vec<String> = text.split(' ').map(shown_word).collect();
    printable(shown.join(" "))
}

/// A word, which may be an address.
fn shown_word(word: &str) -> String {
    let (scheme, rest) = match word.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), word),
    };
    let end = if scheme.is_empty() { rest.len() } else { rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len()) };
    let (authority, path) = rest.split_at(end);
    let host = authority.rsplit('@').next().unwrap_or_default();
    let path = if scheme.is_empty() { path } else { path.split(['?', '#']).next().unwrap_or_default() };
    format!("{scheme}{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_local() {
        for local in ["http://localhost/a", "http://LOCALHOST:80/a", "http://127.0.0.1:8000/", "http://127.9.9.9/a"] {
            assert!(Address::parse(local).unwrap().is_local(), "{local}");
        }
        assert!(Address::parse("http://[::1]:80/a").unwrap().is_local());
        for other in ["localhost.evil.example", "127.0.0.1.evil.example", "localhost@evil.example", "[::2]", "10.0.0.1"]
        {
            assert!(!Address::parse(&format!("http://{other}/a")).unwrap().is_local(), "{other}");
        }
        assert!(!Address::parse("http://127.0.0.1:80@evil.example/a").unwrap().is_local());
    }

    #[test]
    fn a_password_is_not_shown() {
        let address = Address::parse("https://user:secret@host.example:8443/a.tar.gz?token=secret").unwrap();
        assert_eq!(address.to_string(), "https://host.example:8443/a.tar.gz");
        assert!(address.is_https());
        assert_eq!(address.uri().host(), Some("host.example"));
        let said = without_secrets("no https://a:secret@b/c, http://secret@d?secret and secret@e:\u{1b}[2J");
        assert_eq!(said, r"no https://b/c, http://d and e:\u{1b}[2J");
        for wrong in ["ftp://a:secret@b/c", "a:secret@b", "https://a:secret@", "http://a:secret@b c/d", ""] {
            let error = Address::parse(wrong).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains("is not an address") && !error.contains("secret"), "{error}");
        }
    }
}
